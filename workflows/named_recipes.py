"""Recipes by name or out of a file, for the jobs whose first word is a recipe."""

from __future__ import annotations

from fusion.errors import UserError
from fusion.recipes import Recipe


def kinds(name: str) -> tuple[type, type, dict]:
    """(recipe class, engine class, table of recipes): "fusion", or "joint", MoE-Fusion with its detectors."""
    if name == "joint":
        from detection import joint

        return joint.JointRecipe, joint.JointEngine, joint.RECIPES
    from fusion import engine, recipes

    return recipes.Recipe, engine.Engine, recipes.RECIPES


def find_recipe(name: str) -> Recipe:
    """A recipe by its name or out of a file (JSON or YAML, local or s3://). UserError: there is none."""
    for kind in ("fusion", "joint"):
        if name in kinds(kind)[2]:
            return kinds(kind)[2][name]()
    if not name.endswith((".json", ".yaml", ".yml")):
        known = ", ".join(kinds("fusion")[2] | kinds("joint")[2])
        raise UserError(f"unknown recipe {name!r}. Known: {known}, or a recipe's file (.json or .yaml).")
    import yaml

    from fusion import storage
    from fusion.config import from_dict, from_yaml

    try:
        settings = from_yaml(storage.read_bytes(name).decode())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"no recipe at {name}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not a recipe: {' '.join(str(error).split())[:200]}") from error
    kind = "joint" if isinstance(settings, dict) and "detectors" in settings else "fusion"
    return from_dict(kinds(kind)[0], settings, name)


def show_recipes(job: str) -> None:
    print(f"usage: duskfuse {job} RECIPE --corpus DIR --out DIR [options]\n\nrecipes:")
    for name, make in (kinds("fusion")[2] | kinds("joint")[2]).items():
        print(f"  {name:25} {(make.__doc__ or '').strip().splitlines()[0]}")
    print(f"\nor a recipe's file (.json, .yaml). duskfuse {job} RECIPE --help lists all options with its values.")
