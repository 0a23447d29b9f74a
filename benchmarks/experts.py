"""The task mixture against the plain sort-split-loop-index_add way: forward and backward, side by side in one run.

    python benchmarks/experts.py [--tokens 32768] [--width 48] [--threads 2] [--device cuda]

N = 11 experts, K = 6, hidden width int(2.66 x width), as in TG-ECNet. The two ways take turns; the figures are medians
and the ratio is the median of the turns' ratios, so a busy machine disturbs both alike. Results are compared first.
"""

import argparse
import statistics
import time

import torch

from fusion.models.mixture import mixture, reference_mixture

EXPERTS, TOP_K = 11, 6


def case(tokens: int, width: int, device: str) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = int(2.66 * width)
    top, index = torch.randn(tokens, EXPERTS, device=device).topk(TOP_K, dim=1)
    shapes = [(EXPERTS, width, hidden), (EXPERTS, hidden), (EXPERTS, hidden, width), (EXPERTS, width)]
    weights = [(torch.randn(shape, device=device) * 0.1).requires_grad_() for shape in shapes]
    x = torch.randn(tokens, width, device=device, requires_grad=True)
    return x, index, top.log_softmax(1).requires_grad_(), *weights


def once(way, args: tuple[torch.Tensor, ...], cuda: bool) -> tuple[float, list[torch.Tensor]]:
    """Seconds of forward and backward, and the result with its gradients."""
    leaves = [tensor for tensor in args if tensor.requires_grad]
    for tensor in leaves:
        tensor.grad = None
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    y = way(*args)
    y.square().mean().backward()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, [y.detach(), *(tensor.grad for tensor in leaves)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cuda = args.device.startswith("cuda")
    tensors = case(args.tokens, args.width, args.device)
    ours, plain = once(mixture, tensors, cuda)[1], once(reference_mixture, tensors, cuda)[1]
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, plain, strict=True))
    turns = [(once(mixture, tensors, cuda)[0], once(reference_mixture, tensors, cuda)[0]) for _ in range(args.turns)]
    medians = [statistics.median(turn[i] for turn in turns) for i in (0, 1)]
    ratios = sorted(b / a for a, b in turns)
    print(f"{args.tokens} tokens of {args.width}, N {EXPERTS}, K {TOP_K}, {args.device}, {args.threads} threads")
    print(f"ours {medians[0] * 1e3:.1f} ms, plain {medians[1] * 1e3:.1f} ms, forward and backward")
    middle, low, high = statistics.median(ratios), ratios[0], ratios[-1]
    print(f"ratio {middle:.2f} (turns from {low:.2f} to {high:.2f}); greatest relative difference {error:.1e}")


if __name__ == "__main__":
    main()
