"""What `duskfuse corpus` says of a preset with numbers, without Ray."""

from fusion.data.corpus import Manifest
from fusion.data.quotas import find_data_sets
from tests.helpers.command_line import one_line
from workflows.corpus.job import print_summary


def row(split: str, source: str, degradation: str, level: str, samples: int) -> dict[str, object]:
    return {"split": split, "source": source, "degradation": degradation, "level": level, "samples": samples}


def summary(preset: str, counts: list[dict[str, object]], capfd) -> str:
    about = {
        "counts": counts,
        "config": {"preset": preset},
        "shards": [],
        "boxes": 0,
        "pairs": {"used": 9},
        "rejected": [],
    }
    print_summary(Manifest("c", about), 0.1, find_data_sets({str(one["source"]) for one in counts}, preset))
    return capfd.readouterr().err


def test_the_numbers_of_the_paper_stand_beside_what_was_made(capfd):
    counts = [row("train", "m3fd", "noise", "1", 60), row("val", "m3fd", "noise", "1", 5)]
    counts += [row("train", "msrs", "noise", "1", 19), row("test", "m3fd", "stripes", "2", 84)]
    said = [line.split() for line in summary("demmi-rf-counts", counts, capfd).splitlines()]
    assert "train noise1 84 of the paper's 3508 (2%)".split() in said
    assert "train noise1 of M3FD 65 of the paper's 130 (50%)".split() in said
    assert "train noise1 of MSRS 19 of the paper's 19 (100%)".split() in said
    assert "test stripes2 of M3FD 84 of the paper's 84 (100%)".split() in said
    assert not any("LLVIP" in line for line in said)


def test_mixtures_are_told_by_their_names(capfd):
    said = summary("demmi-rf-combinations", [row("test", "a", "haze+noise", "2+3", 30)], capfd)
    assert "test haze2+noise3 30 of the paper's 30 (100%)".split() in [line.split() for line in said.splitlines()]


def test_pairs_of_no_data_set_are_refused_at_once(command, tmp_path):
    words = ["corpus", "--pairs", "scenes:3:64x64", "--preset", "demmi-rf-counts", "--out", tmp_path / "c"]
    code, _, err = command(*words)
    assert code == 2 and not (tmp_path / "c").exists()
    one_line(err, "the sources here are scenes", "--data-sets SOURCE=NAME")
