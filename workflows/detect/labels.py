"""The labelled pairs of `duskfuse detect`: what is wrong with them, which classes there are, which images train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

from detection.yolo.config import YoloConfig
from fusion import storage
from fusion.config import fingerprint, to_dict
from fusion.data.class_names import class_list, standard_name
from fusion.data.corpus import open_corpus, read_shard
from fusion.data.finding import PairRef, Rejected
from fusion.data.pairs import BadPair, find_pairs, read_pair
from fusion.data.splits import FILE, assign_splits, read_frozen_splits
from fusion.errors import UserError
from workflows.cluster.parallel import in_parallel
from workflows.console import log_progress
from workflows.inputs import Problem, pair_units
from workflows.splits import named_sequences, split_pairs

if TYPE_CHECKING:
    from workflows.detect.options import Args

SOURCES = ("visible", "infrared")


@dataclass(frozen=True)
class LabelledPairs:
    """Pairs that can be used, with their splits.

    refs        the pairs
    boxes       key -> class -> number of boxes
    problems    what is wrong with these and others, by file and line
    """

    refs: tuple[PairRef, ...] = ()
    boxes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def count_boxes(self, *splits: str) -> Counter[str]:
        """Count the boxes of each class in the pairs of these splits, or of all where "all" is one of them."""
        counts: Counter[str] = Counter()
        for ref in self.refs:
            if ref.split in splits or "all" in splits:
                counts.update(self.boxes[ref.key])
        return counts


@dataclass(frozen=True)
class LabelTask:
    """A few pairs whose labels are read together, and the names of their classes."""

    refs: tuple[PairRef, ...]
    class_aliases: Mapping[str, str]


@dataclass(frozen=True)
class PairLabels:
    """The labels of a pair: class -> number of boxes, and what is wrong with them. boxes None: it cannot be read."""

    key: str
    boxes: Mapping[str, int] | None
    problems: tuple[str, ...]


def validate_pairs(args: Args, class_aliases: Mapping[str, str]) -> LabelledPairs:
    """Read all pairs and split them. UserError: too many cannot be used, or OUT has other splits."""
    if args.pairs is None:
        return LabelledPairs()
    found = find_pairs(args.pairs)
    check_splits(args, found.refs)
    refs = split_pairs(found.refs, args, args.out)
    rejected = list(found.rejected)
    problems = [Problem("", item.key, item.reason) for item in found.rejected]
    boxes: dict[str, Mapping[str, int]] = {}
    tasks = [LabelTask(unit.refs, class_aliases) for unit in pair_units(refs)]
    with tqdm(total=len(refs), unit="pair", desc="labels", mininterval=1) as bar:
        for labels in in_parallel(tasks, count_boxes):
            bar.update(1)
            problems += [Problem("", labels.key, text) for text in labels.problems]
            if labels.boxes is None:
                rejected.append(Rejected(labels.key, labels.problems[0]))
            else:
                boxes[labels.key] = labels.boxes
    total = len(refs) + len(found.rejected)
    if len(rejected) > args.max_rejected_fraction * total:
        raise UserError(
            f"{len(rejected)} of {total} pairs cannot be used, more than "
            f"--max-rejected-fraction {args.max_rejected_fraction:g}. {rejected[0].key}: {rejected[0].reason}"
        )
    problems.sort(key=lambda problem: (problem.image, problem.problem))
    return LabelledPairs(tuple(ref for ref in refs if ref.key in boxes), boxes, tuple(problems))


def check_splits(args: Args, refs: Sequence[PairRef]) -> None:
    """Raise UserError when OUT keeps other splits of these pairs than the options now ask for."""
    path = storage.join(args.out, FILE)
    if not storage.exists(path):
        return
    kept, sequence = read_frozen_splits(refs, path)
    if set(sequence) != {ref.key for ref in refs}:
        return
    if args.splits:
        wanted = read_frozen_splits(refs, args.splits)[0]
    else:
        wanted = assign_splits(refs, args, (sequence if args.sequences else {}) | named_sequences(refs, args))
    if {ref.key: ref.split for ref in kept} != {ref.key: ref.split for ref in wanted}:
        raise UserError(
            f"{path} has other splits than these options give (--splits, --seed, --val-fraction, --test-fraction, "
            "--sequences). Give those of the first run, or choose another --out."
        )


def count_boxes(task: LabelTask) -> list[PairLabels]:
    """Count the boxes of a few pairs by class, in a Ray task."""
    results = []
    for ref in task.refs:
        try:
            pair = read_pair(ref)
        except BadPair as error:
            file = f"{ref.labels}: " if str(error).startswith("labels") else ""
            results.append(PairLabels(ref.key, None, (f"{file}{error}",)))
            continue
        boxes = Counter(standard_name(name, task.class_aliases) for name in pair.classes)
        problems = tuple(f"{ref.labels}: {warning}" for warning in pair.label_warnings)
        results.append(PairLabels(pair.key, dict(boxes), problems))
    return results


def choose_classes(args: Args, pairs: LabelledPairs, class_aliases: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes to detect. UserError: none, or one without boxes to learn from."""
    train, scored = pairs.count_boxes("train", "val"), pairs.count_boxes(args.split)
    asked = (standard_name(name, class_aliases) for name in args.classes.split(",") if name.strip())
    classes = tuple(dict.fromkeys(asked)) or class_list(train or scored, class_aliases)
    if not classes:
        if args.weights is not None and args.pairs is None:
            raise UserError("give --classes, the classes to score: there are no labelled pairs to take them from.")
        raise UserError(f"{args.pairs} has no labelled box. Give pairs with labels (YOLO txt or VOC xml).")
    if args.weights is None:
        empty = [name for name in classes if not train[name]]
        if empty:
            known = ", ".join(f"{name} {count}" for name, count in sorted(train.items()))
            raise UserError(f"class {empty[0]!r} has no box in the training pairs ({known}). Change --classes.")
    if args.corpus is None:
        for name in classes:
            if not scored[name]:
                log_progress(f"class {name!r} has no box in what is scored: it has no AP, and is no part of the mean")
    return classes


@dataclass(frozen=True)
class TrainingImage:
    """An image to train or validate on: which pair, and "visible", "infrared" or a folder of fused images."""

    key: str
    split: str
    ref: PairRef
    image: str


@dataclass(frozen=True)
class TrainingData:
    """Images to train and validate on, the classes to detect, and other names of these."""

    images: tuple[TrainingImage, ...]
    classes: tuple[str, ...]
    class_aliases: dict[str, str]

    def fingerprint(self) -> str:
        """Return what is the same for the same data, also as revision 103a0ad wrote it into settings.json."""
        rows = [to_dict(image) for image in self.images]
        return fingerprint({"rows": rows, "classes": list(self.classes), "same": self.class_aliases})


def choose_training_images(
    args: Args, refs: Sequence[PairRef], methods: Mapping[str, str]
) -> tuple[TrainingImage, ...]:
    """Return the images to train or validate on. UserError: unknown names in --train-on, or no pair is left."""
    names = [name.strip() for name in args.train_on.split("+") if name.strip()]
    unknown = [name for name in names if name not in (*SOURCES, *methods)]
    if unknown or not names:
        known = ", ".join((*SOURCES, *methods))
        raise UserError(f"--train-on {args.train_on!r}: {unknown[0] if unknown else 'nothing'} is none of {known}.")
    scored: set[str] = set()
    if args.corpus is not None:  # its test pairs must not be in the training set
        for path in open_corpus(args.corpus).paths(args.split if args.split != "all" else None):
            scored.update(read_shard(path, ["key"])["key"].to_pylist())
        if not scored & {ref.key for ref in refs}:
            log_progress(
                "warning: no corpus image matches a training pair by name; make sure the test images are not in the "
                "training set"
            )
    images = tuple(
        TrainingImage(f"{ref.key}-{name}", ref.split, ref, name if name in SOURCES else storage.absolute(methods[name]))
        for ref in refs
        for name in names
        if ref.split in ("train", "val") and ref.key not in scored
    )
    for split in ("train", "val") if isinstance(args.recipe, YoloConfig) else ("train",):
        if not any(image.split == split for image in images):
            raise UserError(f"no pair is left for {split!r}: give more labelled pairs, or another --val-fraction.")
    return images
