"""duskfuse evolve: a library of fusion methods labels the pairs, AE-Netv2 learns from the best result of each.

    duskfuse evolve --pairs DIR --out DIR
    duskfuse evolve --pairs DIR --out DIR --checkpoint moefusion=RUN       the library grows, the network evolves

Every method fuses and E2 scores the training and validation pairs; the best result of a pair is its label. Running it
again with more methods (--library, --checkpoint NAME=RUN, --fused NAME=DIR) scores only those, replaces labels where
they win, and trains on from the network that is there if any label was. Nothing is redone.

OUT/library/NAME has a method's results and scores, OUT/evolutions/N the labels and the training, OUT/checkpoint the
latest network; OUT/evolve.json, written last, who won how often, and scores on the held-out pairs before and after.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace

from fusion.errors import UserError
from fusion.recipes import Recipe, aenet
from workflows.cluster import connect, in_parallel, say
from workflows.options import Repeated

CLASSICAL = "adf,mgff,vsm_wls,tif,gff,hmsd_gf,ifevip,lp"


@dataclass(frozen=True)
class Args:
    pairs: str
    """The pairs: a folder, s3://bucket/path, or scenes:COUNT."""
    out: str
    """Folder or s3://bucket/path of labels and networks."""
    recipe: Recipe = field(default_factory=aenet)
    """The network's first training; later evolutions go on at a tenth of its rate."""
    library: str = CLASSICAL
    """Methods of the library, separated by commas."""
    checkpoint: Repeated = ()
    """Trained networks as methods, each NAME=RUN."""
    fused: Repeated = ()
    """Folders of fused images as methods, each NAME=DIR."""
    max_sharpness: float = 2.0
    """A result with more than this times the Brenner sharpness of both images together fails: it gives no label and no
    score; 0: none does."""
    more_epochs: int = 20
    """Epochs of an evolution after the first one."""
    splits: str = ""
    """A split file of a corpus; by default the folders' splits, and a draw where they have none."""
    sequences: bool = True
    """Keep near-duplicates in one split when it is drawn."""
    val_share: float = 0.1
    """Share of the training pairs that validates."""
    test_share: float = 0.2
    """Share of the pairs held out where the folders have no test split."""
    seed: int = 0
    """Of drawn splits."""
    workers: int = 0
    """Training workers; 0: one per GPU, or one with all CPUs of a node."""
    max_rejected: float = 0.01
    """Fail when more than this share of the pairs cannot be read."""


def main(arguments: list[str]) -> None:
    import tyro

    from workflows.cli import parse

    run(parse(Args, "evolve", arguments, config=(tyro.conf.AvoidSubcommands,)), arguments)


def run(args: Args, command: list[str]) -> None:
    from fusion.pairs import find_pairs
    from workflows.folders import Lease, claim

    if args.recipe.model_name != "aenet":
        raise UserError(f"evolution trains AE-Netv2; the recipe {args.recipe.name} is of {args.recipe.model_name}.")
    if not 0 <= args.max_sharpness < math.inf:
        raise UserError(f"--max-sharpness {args.max_sharpness:g}: give a number of at least 0.")
    methods = library(args)
    found = find_pairs(args.pairs)
    claim(args.out, "settings.json", settings(args), "evolution")
    with Lease(args.out) as lease:
        claim(args.out, "settings.json", settings(args), "evolution")  # another one may have claimed it just now
        evolve(args, command, methods, found, lease)


def evolve(args: Args, command: list[str], methods: dict[str, dict], found, lease) -> None:
    """Score what is new, label, train, and write down what came of it."""
    from fusion import evolution, storage
    from fusion.config import fingerprint
    from workflows import evolve_train
    from workflows.folders import claim
    from workflows.splits import split_pairs
    from workflows.training import publish

    connect()
    refs = split_pairs(found.refs, args, args.out)
    learn = sum(ref.split == "train" for ref in refs)
    if learn * args.recipe.crops.per_image < args.recipe.batch_size:
        raise UserError(
            f"{learn} pairs to train on are too few for a batch of {args.recipe.batch_size}. "
            "Lower --recipe.batch-size, or --test-share and --val-share."
        )
    scores = {}
    for name, spec in methods.items():
        scores[name] = score_method(args, name, spec, refs)
        lease.check()
    rejected = {key for by_key in scores.values() for key, (_, reason) in by_key.items() if reason.startswith("pair: ")}
    rejected |= {item.key for item in found.rejected}
    if len(rejected) > args.max_rejected * (len(refs) + len(found.rejected)):
        raise UserError(f"{len(rejected)} pairs cannot be read, more than --max-rejected: {min(rejected)} is one.")

    number, earlier = latest(args.out)
    before = earlier.get("library", [])
    fresh = [name for name in methods if name not in before]
    if not fresh:
        finish(args.out, number, ["evolve", *command])  # it may have been killed before that
        print(f"{args.out}: nothing new in the library; its network is in {storage.join(args.out, 'checkpoint')}")
        return
    number += 1
    folder = storage.join(args.out, "evolutions", str(number))
    old = read_labels(args.out, number - 1)
    trained = {ref.key for ref in refs if ref.split in ("train", "val")}
    values = {name: {k: s for k, (s, _) in scores[name].items() if k in trained} for name in fresh}
    labels = evolution.evolve(old, values)
    if not labels:
        key, why = next(((k, why) for by_key in scores.values() for k, (_, why) in by_key.items() if why), ("", ""))
        raise UserError(f"no method has a result with a score on any pair ({key}: {why}). E2 needs images for NIQE.")
    write_labels(folder, evolution.to_csv(labels))
    network = storage.join(args.out, "library", f"network-{number}")
    training = storage.join(folder, "training")
    if not storage.exists(storage.join(training, "checkpoint", "state.json")):  # scores of one that was deleted
        for name in ("scores.json", "method.json"):
            storage.remove(storage.join(network, name))
    won = evolution.wins(labels.values())
    say(f"evolution {number}: {len(labels)} labels by " + ", ".join(f"{name} {count}" for name, count in won.items()))

    recipe = args.recipe
    if number > 1:
        optim = replace(recipe.optim, lr=recipe.optim.lr * 0.1, milestones=())
        recipe = replace(recipe, epochs=args.more_epochs, optim=optim)
    start = storage.join(args.out, "evolutions", str(number - 1), "training", "checkpoint") if number > 1 else None
    rows = [
        {"ref": asdict(ref), "label": storage.absolute(image_path(args.out, labels[ref.key].method, ref.key))}
        for ref in refs
        if ref.key in labels
    ]
    if labels == old:
        say(f"evolution {number}: no label is replaced, and the network stays as it is")
        claim(training, "settings.json", {"labels": fingerprint(rows), "network of": number - 1}, "training")
        publish(start, storage.join(training, "checkpoint"))
        history = []
    else:
        history = evolve_train.train(training, recipe, rows, start, ["evolve", *command], args.workers)
    score_method(args, f"network-{number}", network_spec(args.out, number), refs, ("test",))
    means, counts = held_out_means(args, [*before, *fresh], refs, number)
    facts = {
        "evolution": number,
        "library": [*before, *fresh],
        "joined": fresh,
        "labels": len(labels),
        "replaced": sum(key in old and old[key] != label for key, label in labels.items()),
        "wins": won,
        "label score": evolution.mean_score([label.score for label in labels.values()]),
        "held out": {"pairs": sum(ref.split == "test" for ref in refs), **means},
        "held out scored": counts,
        "failures": {name: sum(bool(r) for _, r in by_key.values()) for name, by_key in scores.items()},
        "forgetting": evolve_train.forgetting(args.out, number, refs),
        "epochs": len(history),
    }
    lease.check()
    storage.write_text(storage.join(folder, "evolution.json"), json.dumps(facts, indent=1) + "\n")
    finish(args.out, number, ["evolve", *command])
    print(f"{args.out}: evolution {number}, the network is in {storage.join(args.out, 'checkpoint')}")


def finish(out: str, number: int, command: list[str]) -> None:
    """OUT/checkpoint and OUT/evolve.json of the evolutions up to `number`, unless they are there."""
    from fusion import storage
    from workflows.stamps import stamp
    from workflows.training import publish

    path = storage.join(out, "evolve.json")
    if storage.exists(path) and len(json.loads(storage.read_bytes(path))["evolutions"]) == number:
        return
    publish(storage.join(out, "evolutions", str(number), "training", "checkpoint"), storage.join(out, "checkpoint"))
    every = [read(out, n) for n in range(1, number + 1)]
    storage.write_text(path, json.dumps({"stamp": stamp(command), "evolutions": every}, indent=1) + "\n")
    show(every)


def write_labels(folder: str, text: str) -> None:
    """FOLDER/labels.csv. UserError when a training of other labels has begun there."""
    from fusion import storage

    path = storage.join(folder, "labels.csv")
    if storage.exists(storage.join(folder, "training", "settings.json")) and storage.read_bytes(path).decode() != text:
        raise UserError(
            f"{folder} was begun with another library and is not finished. Run that command again first; "
            "or delete the folder, and the evolution begins with this library."
        )
    storage.write_text(path, text)


def settings(args: Args) -> dict:
    from fusion.config import to_dict
    from fusion.generated import settled

    names = ("splits", "sequences", "val_share", "test_share", "seed")
    found = {"pairs": settled(args.pairs), "recipe": to_dict(args.recipe)} | {one: getattr(args, one) for one in names}
    return found | ({"max_sharpness": args.max_sharpness} if args.max_sharpness else {})


def library(args: Args) -> dict[str, dict]:
    """name -> what makes its images. UserError: unknown or double names, no such checkpoint or folder."""
    from fusion import storage
    from fusion.library import LIBRARY
    from workflows.fuse import load
    from workflows.score import named_folders

    methods: dict[str, dict] = {}
    for name in filter(None, (part.strip() for part in args.library.split(","))):
        if name not in LIBRARY:
            raise UserError(f"unknown method {name!r}. Known: {', '.join(LIBRARY)}.")
        methods[name] = {"kind": "library", "where": name}
    for kind, texts in (("checkpoint", args.checkpoint), ("folder", args.fused)):
        for name, where in (named_folders(texts) if texts else {}).items():
            if name in methods or name.startswith(("network-", ".")) or name == "pairs" or "/" in name:
                raise UserError(f"the method name {name!r} is used twice, reserved or no name. Give another NAME=.")
            methods[name] = {"kind": kind, "where": storage.absolute(where)}
            if kind == "checkpoint":
                loaded, _, methods[name]["identity"] = load(where)
                if loaded.model.config.stage == "restore":
                    raise UserError(f"{where} restores and does not fuse. Give a checkpoint of stage 2.")
    if not methods:
        raise UserError("the library is empty: give --library, --checkpoint or --fused.")
    return methods


def image_path(out: str, method: str, key: str) -> str:
    from fusion import storage

    return storage.join(out, "library", method, f"{key}.png")


def score_method(
    args: Args, name: str, spec: dict, refs, splits=("train", "val", "test")
) -> dict[str, tuple[float, str]]:
    """key -> (E2, "" or why there is none) of a method on all pairs; read where it was scored before."""
    from tqdm import tqdm

    from fusion import storage
    from workflows.folders import check_seen, claim
    from workflows.sources import PAIRS_A_TASK

    folder = storage.join(args.out, "library", name)
    claim(folder, "method.json", spec, f"method {name}")
    path = storage.join(folder, "scores.json")
    if storage.exists(path):
        return {key: (float(score), reason) for key, (score, reason) in json.loads(storage.read_bytes(path)).items()}
    chosen = [asdict(ref) for ref in refs if ref.split in splits]
    task = {"spec": spec, "folder": storage.absolute(folder), "max_sharpness": args.max_sharpness}
    rows = [task | {"refs": chosen[i : i + PAIRS_A_TASK]} for i in range(0, len(chosen), PAIRS_A_TASK)]
    scores: dict[str, tuple[float, str]] = {}
    with tqdm(total=len(chosen), unit="pair", desc=name, mininterval=1) as bar:
        for row in in_parallel(rows, score_unit):
            scores[row["key"]] = (float(row["score"]), row["reason"])
            bar.update(1)
    unread = sorted(key for key, (_, reason) in scores.items() if reason.startswith("pair: "))
    if len(unread) > args.max_rejected * len(chosen):  # before it is written, so that pairs can be put right
        raise UserError(
            f"{len(unread)} pairs cannot be read, more than --max-rejected {args.max_rejected:g}. "
            f"{unread[0]}: {scores[unread[0]][1]}"
        )
    seen = set(storage.list_files(folder))
    made = [f"{key}.png" for key, (_, reason) in sorted(scores.items()) if not reason]
    check_seen(args.out, [name for name in made if name not in seen], f"images of {name}")
    for key in sorted(key for key, (_, reason) in scores.items() if reason)[:3]:
        say(f"{name} {key}: {scores[key][1]}")
    # repr: JSON knows no NaN
    text = json.dumps({key: (repr(score), reason) for key, (score, reason) in sorted(scores.items())}, indent=1)
    storage.write_text(path, text + "\n")
    return scores


def score_unit(row: dict) -> list[dict]:
    """A method's results of a few pairs, in a Ray task. What fails on one pair is recorded; the others go on."""
    import torch

    from fusion import evolution, storage
    from fusion.images import encode_png
    from fusion.metrics import score
    from workflows.sources import items

    torch.set_num_threads(1)
    make = maker(row["spec"])
    results = []
    for item in items({"refs": row["refs"]}):
        if isinstance(item, tuple):
            results.append({"key": item[0], "score": "nan", "reason": f"pair: {item[1]}"})
            continue
        try:
            fused = make(item)
            images = (fused, item.visible, item.infrared)
            tensors = [torch.tensor(im if im.ndim == 3 else im[..., None]).permute(2, 0, 1)[None] for im in images]
            evolution.check_sharpness(*tensors, row["max_sharpness"])
            value = float(score(*tensors, names=("e2",))["e2"][0])
            storage.write_bytes(storage.join(row["folder"], f"{item.key}.png"), encode_png(fused))
        except storage.StoreError:
            raise
        except evolution.Invented as error:
            results.append({"key": item.key, "score": "nan", "reason": str(error)})
            continue
        except Exception as error:  # whatever a method does, the other methods and pairs go on
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            results.append({"key": item.key, "score": "nan", "reason": reason})
            continue
        reason = "" if value == value else "E2 is not a number"
        results.append({"key": item.key, "score": repr(value), "reason": reason})
    return results


def maker(spec: dict):
    """item -> fused uint8 luma (H, W)."""
    from fusion import inference
    from fusion.colour import as_grey
    from fusion.library import LIBRARY
    from workflows.fuse import load
    from workflows.score import read_fused

    if spec["kind"] == "folder":

        def read(item):
            image = as_grey(read_fused(spec["where"], item))
            if image.shape != item.infrared.shape:
                raise UserError(f"size differs: fused {image.shape[1]}x{image.shape[0]}")
            return image

        return read
    if spec["kind"] == "library":
        method, twin = LIBRARY[spec["where"]].fuse, None
    else:
        loaded, twin, _ = load(spec["where"])
        method = loaded.model

    def fuse(item):
        attention = None
        if twin is not None:
            from detection.joint import attend

            attention = attend(twin, item.visible, item.infrared)
        return inference.fuse(method, as_grey(item.visible), item.infrared, attention)

    return fuse


def latest(out: str) -> tuple[int, dict]:
    """The number of the last finished evolution, and what it says of itself."""
    from fusion import storage

    number = 0
    while storage.exists(storage.join(out, "evolutions", str(number + 1), "evolution.json")):
        number += 1
    return number, read(out, number) if number else {}


def read(out: str, number: int) -> dict:
    from fusion import storage

    return json.loads(storage.read_bytes(storage.join(out, "evolutions", str(number), "evolution.json")))


def read_labels(out: str, number: int) -> dict:
    from fusion import evolution, storage

    if number == 0:
        return {}
    path = storage.join(out, "evolutions", str(number), "labels.csv")
    return evolution.from_csv(storage.read_bytes(path).decode(), path)


def held_out_means(args: Args, methods: list[str], refs, number: int) -> tuple[dict[str, float], dict[str, int]]:
    """Mean E2 on the held-out pairs, and of how many: every method, and the network after each evolution."""
    from fusion import storage
    from fusion.evolution import mean_score

    test = {ref.key for ref in refs if ref.split == "test"}
    means, counts = {}, {}
    every = {name: score_method(args, name, spec_of(args.out, name), refs) for name in methods}
    for n in range(1, number + 1):
        name = f"network-{n}"  # one whose folder was deleted is scored again
        there = storage.exists(storage.join(args.out, "library", name, "method.json"))
        spec = spec_of(args.out, name) if there else network_spec(args.out, n)
        every[name] = score_method(args, name, spec, refs, ("test",))
    for name, scored in every.items():
        found = [score for key, (score, _) in scored.items() if key in test]
        means[name], counts[name] = mean_score(found), sum(map(math.isfinite, found))
    return means, counts


def spec_of(out: str, name: str) -> dict:
    from fusion import storage

    return json.loads(storage.read_bytes(storage.join(out, "library", name, "method.json")))


def network_spec(out: str, number: int) -> dict:
    """The network of an evolution as a method."""
    from fusion import storage
    from workflows.fuse import load

    where = storage.absolute(storage.join(out, "evolutions", str(number), "training", "checkpoint"))
    return {"kind": "checkpoint", "where": where, "identity": load(where)[2]}


def show(evolutions: list[dict]) -> None:
    last = evolutions[-1]
    pairs = last["held out"]["pairs"]
    say(f"{'E2 on ' + str(pairs) + ' held-out pairs':28} labels won")
    for name, value in last["held out"].items():
        if name != "pairs":
            count = last.get("held out scored", {}).get(name, pairs)
            fewer = f"   over {count} pairs only" if count < pairs else ""
            say(f"{name:18} {value:9.4f} {last['wins'].get(name, 0):10}{fewer}")
    for one in evolutions:
        old = one["forgetting"]
        if old:
            say(f"evolution {one['evolution']}: loss on the labels before it {old['before']:.4f} -> {old['after']:.4f}")


if __name__ == "__main__":
    import sys

    from workflows.cli import main as cli

    sys.exit(cli(["evolve", *sys.argv[1:]]))
