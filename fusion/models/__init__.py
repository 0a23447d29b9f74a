"""Networks, without data, losses or disk. `registry.MODELS` is the table of them, `configs` their configs."""
