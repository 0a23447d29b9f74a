"""How to keep pixels in a shard: PNG bytes, or raw bytes under zstd. Build time, size and read time, side by side.

    python benchmarks/storage.py FOLDER_OF_PAIRS [--pairs 20]

Every pair is written with the six degradations of demmi-rf, one shard for all, then read back to arrays. The PNG
variant encodes with OpenCV at its default level; both go through the same Parquet writer with a dictionary.
"""

import argparse
import statistics
import time

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusion.data.corpus import IMAGES, Sample
from fusion.data.pairs import find_pairs, read_pair
from fusion.data.shards import make_sample
from fusion.degrade import PRESETS

REPEATS = 3


def pack(samples: list[Sample], encode, level: int) -> bytes:
    columns = {name: [encode(getattr(sample, name)) for sample in samples] for name in IMAGES}
    table = pa.table({name: pa.array(values, pa.large_binary()) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    limits = {"dictionary_pagesize_limit": 2**30, "data_page_size": 2**30}
    pq.write_table(table, sink, compression="zstd", compression_level=level, **limits)
    return sink.getvalue().to_pybytes()


def unpack(data: bytes, decode, samples: list[Sample]) -> None:
    table = pq.read_table(pa.BufferReader(data))
    for name in IMAGES:
        for cell, sample in zip(table[name], samples, strict=True):
            assert np.array_equal(decode(cell.as_py(), getattr(sample, name).shape), getattr(sample, name))


def timed(call) -> tuple[float, object]:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--pairs", type=int, default=20)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    refs = find_pairs(args.folder).refs
    chosen = refs[:: max(1, len(refs) // args.pairs)][: args.pairs]
    samples = [make_sample(ref, read_pair(ref), str(what), 0) for ref in chosen for what in PRESETS["demmi-rf"]]
    raw = sum(getattr(sample, name).nbytes for sample in samples for name in IMAGES)
    print(f"{len(samples)} samples of {len(chosen)} pairs, {raw / 1e6:.1f} MB of pixels")

    ways = {
        "png": (lambda image: cv2.imencode(".png", image)[1].tobytes(), 1),
        "raw + zstd 1": (lambda image: np.ascontiguousarray(image).tobytes(), 1),
        "raw + zstd 3": (lambda image: np.ascontiguousarray(image).tobytes(), 3),
        "raw + zstd 9": (lambda image: np.ascontiguousarray(image).tobytes(), 9),
    }

    def from_png(data: bytes, shape) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)

    def from_raw(data: bytes, shape) -> np.ndarray:
        return np.frombuffer(data, np.uint8).reshape(shape)

    print(f"{'way':14} {'build ms':>9} {'size MB':>9} {'read ms':>9}   per sample: build, read; size against pixels")
    for name, (encode, level) in ways.items():
        build, data = timed(lambda encode=encode, level=level: pack(samples, encode, level))
        decode = from_png if name == "png" else from_raw
        read, _ = timed(lambda data=data, decode=decode: unpack(data, decode, samples))
        per = len(samples) / 1e3
        print(
            f"{name:14} {build * 1e3:9.0f} {len(data) / 1e6:9.1f} {read * 1e3:9.0f}"
            f"   {build / per:.1f} ms, {read / per:.1f} ms, {len(data) / raw:.0%}"
        )


if __name__ == "__main__":
    main()
