"""`duskfuse fuse --visible --infrared` and `duskfuse export`: files in, a file out, without Ray."""

import cv2
import numpy as np
import pytest
import torch

from fusion import checkpoint, inference, scenes
from fusion.classical import CLASSICAL, fuse_colour
from fusion.images.colour import to_grey
from fusion.images.decode import decode
from fusion.images.png import encode_png
from fusion.models.aenet import AENet
from fusion.models.configs import AENetConfig
from tests.helpers.command_line import one_line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of a small AE-Netv2 with random weights."""
    folder = tmp_path_factory.mktemp("aenet")
    torch.manual_seed(3)
    checkpoint.save(folder, "aenet", AENet(AENetConfig(width=16)), recipe={}, state={})
    return folder


@pytest.fixture
def pair(tmp_path):
    scene = scenes.render(4, 0, 96, 128)
    for name in ("visible", "infrared"):
        (tmp_path / f"{name}.png").write_bytes(encode_png(getattr(scene, name)))
    return scene


def words(folder, **more):
    given = {"visible": folder / "visible.png", "infrared": folder / "infrared.png", "out": folder / "out.png"} | more
    return ["fuse", *(word for name, value in given.items() for word in (f"--{name}", value))]


def test_two_images(command, run, pair, tmp_path):
    code, out, err = command(*words(tmp_path, checkpoint=run))
    assert code == 0, err
    assert "128x96" in out and "ms" in out and "Ray" not in err
    fused = decode((tmp_path / "out.png").read_bytes()).pixels
    expected = inference.fuse(checkpoint.load(run).model, pair.visible, pair.infrared)
    assert np.abs(fused.astype(int) - expected).max() <= 1  # folded: equal to rounding


@pytest.mark.parametrize("extension", ["jpg", "bmp", "tiff", "webp"])
def test_the_name_says_the_format(command, pair, tmp_path, extension):
    out = tmp_path / f"sub/out.{extension}"
    code, _, err = command(*words(tmp_path, method="average", out=out))
    assert code == 0, err
    fused = cv2.cvtColor(cv2.imread(str(out)), cv2.COLOR_BGR2RGB).astype(int)
    expected = inference.fuse(CLASSICAL["average"].fuse, pair.visible, pair.infrared)
    assert np.abs(fused - expected).mean() < (4 if extension in ("jpg", "webp") else 1e-9)


def test_sizes_that_differ(command, pair, tmp_path):
    small = cv2.resize(pair.infrared, (64, 48), interpolation=cv2.INTER_AREA)
    (tmp_path / "infrared.png").write_bytes(encode_png(small))
    code, _, err = command(*words(tmp_path, method="average"))
    assert code == 2
    one_line(err, "128x96", "64x48", "--resize")
    code, _, err = command(*words(tmp_path, method="average"), "--resize")
    assert code == 0, err
    assert decode((tmp_path / "out.png").read_bytes()).pixels.shape == (96, 128, 3)


@pytest.mark.parametrize("method", ["tif", "gff"])
def test_every_channel(command, pair, tmp_path, method):
    """gff shares its choice among the channels, tif takes each for itself."""
    code, _, err = command(*words(tmp_path, method=method, colour="channels"))
    assert code == 0, err
    fused = decode((tmp_path / "out.png").read_bytes()).pixels
    assert (fused == fuse_colour(CLASSICAL[method], pair.visible, pair.infrared)).all()
    (tmp_path / "visible.png").write_bytes(encode_png(to_grey(pair.visible)))
    code, _, err = command(*words(tmp_path, method=method, colour="channels"))
    assert code == 0, err
    assert decode((tmp_path / "out.png").read_bytes()).pixels.ndim == 2  # a grey image has one channel


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--workers", 2], ["--workers does nothing with --visible and --infrared", "Leave it out"]),
        (["--split", "all"], ["--split does nothing"]),
        (
            ["--split", "test", "--max-rejected-fraction", 0.5],
            ["--split and --max-rejected-fraction do nothing", "Leave them out"],
        ),
        (["--colour", "channels"], ["--colour", "--method"]),
    ],
    ids=lambda value: str(value[0]),
)
def test_options_that_would_do_nothing(command, pair, tmp_path, more, parts):
    code, _, err = command(*words(tmp_path), *more)
    assert code == 2
    one_line(err, *parts)
    assert not (tmp_path / "out.png").exists()


def write_video(path, frames, rate=12.0):
    code = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), code, rate, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame[..., ::-1] if frame.ndim == 3 else cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1])


@pytest.fixture
def videos(tmp_path):
    made = [scenes.render(4, i, 96, 128) for i in range(5)]
    write_video(tmp_path / "v.avi", [scene.visible for scene in made])
    write_video(tmp_path / "i.avi", [scene.infrared for scene in made])
    return made


@pytest.mark.parametrize("extension", ["avi", "mp4"])
def test_two_videos(command, videos, tmp_path, extension):
    out = tmp_path / f"out.{extension}"
    code, said, err = command("fuse", "--visible", tmp_path / "v.avi", "--infrared", tmp_path / "i.avi",
                              "--method", "maximum", "--out", out)  # fmt: skip
    assert code == 0, err
    assert "5 frames" in said and "frames a second" in said
    frames, rate = read_video(out)
    assert len(frames) == 5 and rate == pytest.approx(12)
    for frame, scene in zip(frames, videos, strict=True):
        expected = inference.fuse(CLASSICAL["maximum"].fuse, scene.visible, scene.infrared)
        assert np.abs(frame.astype(int) - expected).mean() < 12  # compressed twice
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["v.avi", "i.avi", out.name])


def test_videos_that_do_not_belong_together(command, videos, tmp_path):
    write_video(tmp_path / "short.avi", [scene.infrared for scene in videos[:3]])
    write_video(tmp_path / "fast.avi", [scene.infrared for scene in videos], 30)
    write_video(tmp_path / "small.avi", [scene.infrared[:64] for scene in videos])
    for name, parts in (("short", ["5 frames", "3"]), ("fast", ["12 frames a second", "30"]), ("small", ["128x64"])):
        code, _, err = command("fuse", "--visible", tmp_path / "v.avi", "--infrared", tmp_path / f"{name}.avi",
                               "--method", "average", "--out", tmp_path / "out.avi")  # fmt: skip
        assert code == 2
        one_line(err, *parts)
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_wrong_words(command, run, pair, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for more, parts in (
        ({"infrared": tmp_path / "none.png"}, ["none.png", "no file"]),
        ({"infrared": tmp_path / "broken.png"}, ["broken.png", "cannot be read"]),
        ({"infrared": tmp_path / "broken.mp4"}, ["one is a video"]),
        ({"visible": tmp_path / "broken.mp4", "infrared": tmp_path / "broken.mp4", "out": tmp_path / "o.avi"},
         ["cannot be read as a video"]),
        ({"out": tmp_path / "out"}, [".png"]),
        ({"pairs": tmp_path}, ["--pairs"]),
        ({"checkpoint": run}, ["not both"]),
    ):  # fmt: skip
        code, _, err = command(*words(tmp_path, **{"method": "average"} | more))
        assert code == 2, more
        one_line(err, *parts)
    code, _, err = command("fuse", "--visible", tmp_path / "visible.png", "--out", tmp_path / "o.png")
    assert code == 2
    one_line(err, "--infrared")


def test_export(command, run, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "net.onnx"
    code, out, err = command("export", "--checkpoint", run, "--out", path)
    assert code == 0, err
    assert "differs from PyTorch" in out
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    first, second = (np.random.default_rng(i).random((2, 1, 33, 47), np.float32) for i in range(2))
    names = [entry.name for entry in session.get_inputs()]
    assert names == ["first", "second"] and [entry.name for entry in session.get_outputs()] == ["image"]
    (found,) = session.run(None, {"first": first, "second": second})
    with torch.inference_mode():
        expected = checkpoint.load(run).model(torch.from_numpy(first), torch.from_numpy(second)).image
    assert np.abs(found - expected.numpy()).max() < 1e-4
    code, _, err = command("export", "--checkpoint", run, "--out", tmp_path / "net.pt")
    assert code == 2
    one_line(err, ".onnx")
