"""From scores and pictures to a page: `tables` (means, ranks), `plots`, `gallery`, and `html.render` over them."""
