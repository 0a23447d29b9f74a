"""How one house of the procedural scenes looks: colours, floors, windows, the rooms behind them and the shop."""

from __future__ import annotations

import numpy as np

from fusion.scenes.ground import blurred_levels
from fusion.scenes.plan import Building, Plan

TALL = 0.05  # metres per texel up the wall
WALLS = (
    (0.34, 0.15, 0.10),
    (0.42, 0.22, 0.14),
    (0.55, 0.50, 0.42),
    (0.62, 0.60, 0.56),
    (0.36, 0.34, 0.32),
    (0.50, 0.42, 0.28),
    (0.30, 0.34, 0.38),
    (0.58, 0.46, 0.38),
    (0.24, 0.22, 0.22),
    (0.46, 0.50, 0.48),
)
ROOFS = ((0.20, 0.07, 0.05), (0.08, 0.08, 0.09), (0.14, 0.10, 0.08))
GLOWS = ((1.0, 0.66, 0.30), (1.0, 0.78, 0.48), (0.85, 0.92, 1.0), (1.0, 0.55, 0.22))
WORDS = (
    "CAFE",
    "HOTEL",
    "BAR",
    "BANK",
    "SHOP",
    "TEA",
    "PIZZA",
    "BIKES",
    "BOOKS",
    "FISH",
    "TAILOR",
    "CINEMA",
    "PHOTO",
    "LOTTO",
)


class Style:
    """How one house looks: drawn once, used for its faces."""

    def __init__(self, plan: Plan, house: Building) -> None:
        rng = np.random.default_rng(house.seed)
        self.wall = np.array(WALLS[rng.integers(len(WALLS))]) * rng.uniform(0.8, 1.1)
        self.roof = np.array(ROOFS[rng.integers(len(ROOFS))])
        office = house.kind == "office"
        self.floor = float(rng.uniform(2.8, 3.5))
        self.ground = 3.6 if house.shop else 0.0
        self.bay = float(rng.uniform(1.5, 2.4) if office else rng.uniform(2.0, 3.2))
        self.share = float(rng.uniform(0.72, 0.9) if office else rng.uniform(0.36, 0.5))
        self.sill, self.head = (0.7, 0.95 * self.floor) if office else (0.9, min(2.3, 0.8 * self.floor))
        self.trim = self.wall * 0.6 if rng.random() < 0.5 else np.array((0.62, 0.62, 0.60))
        self.sign = np.array(
            [(0.5, 0.06, 0.05), (0.05, 0.12, 0.4), (0.05, 0.3, 0.14), (0.06, 0.06, 0.06), (0.6, 0.42, 0.05)][
                rng.integers(5)
            ]
        )
        self.word = WORDS[rng.integers(len(WORDS))]
        self.heat = plan.ground + float(rng.uniform(-0.09, 0.10))
        warm_night = 0.10 if plan.time == "night" else 0.04 if plan.time == "dusk" else -0.13
        self.glass_heat = self.heat + warm_night
        floors, bays = 16, 40
        lit = rng.random((floors, bays)) < plan.lit
        colour = np.array(GLOWS)[rng.integers(0, len(GLOWS), (floors, bays))]
        power = rng.uniform(0.12, 0.75, (floors, bays)) * lit
        self.rooms = np.zeros((floors, bays, 4), np.float32)
        self.rooms[..., :3] = colour * power[..., None]
        self.rooms[..., 3] = rng.uniform(0.5, 1.5, (floors, bays)) + lit
        self.shop_light = float(rng.uniform(0.35, 0.9)) if plan.time != "day" and rng.random() < 0.65 else 0.0
        self.goods = (rng.uniform(0.15, 1.0, (7, 61, 1)) * rng.uniform(0.62, 1.0, (7, 61, 3))).astype(np.float32)
        self.shift = rng.uniform(0, 400, 2)
        self.brick = rng.random() < 0.5 and not office
        levels = self._profiles(house)
        self.looks, self.openings = np.ascontiguousarray(levels[..., :4]), np.ascontiguousarray(levels[..., 4:7])

    def _profiles(self, house: Building) -> np.ndarray:
        """Return the profile up the wall at ever wider blurs, float32 (6, N, 8).

        For each of N texels: wall colour and heat (4), share of window, share of frame, height within the window.
        """
        t = np.arange(0, house.height + 0.5, TALL, dtype=np.float32)
        up = np.mod(t - self.ground, self.floor)
        above = t >= self.ground
        whole = np.floor((t - self.ground) / self.floor) * self.floor + self.ground + self.floor <= house.height + 0.3
        rows = np.zeros((t.size, 8), np.float32)
        rows[:, :4] = (*self.wall, self.heat)
        if self.brick:
            rows[np.mod(t, 0.15) < 0.05, :3] *= 0.8
        rows[above & (up < 0.18), :3] *= 1.18
        rows[above & (up > self.sill - 0.14) & (up < self.sill) & whole, :3] *= 0.8
        rows[t < 0.5, :3] *= 0.7
        top = t > house.height - 0.45
        rows[top, :4] = (*(self.wall * 0.6), self.heat - 0.05)
        rows[(t > house.height - 0.55) & ~top, :3] *= 0.55
        band = above & whole & ~top
        rows[band & (up > self.sill) & (up < self.head), 4] = 1.0
        rows[band & (up > self.sill - 0.1) & (up < self.head + 0.1), 5] = 1.0
        rows[band, 6] = ((up - self.sill) / (self.head - self.sill))[band].clip(0, 1)
        if house.shop:
            rows[t < 3.0, 4:7] = 0.0
            rows[(t > 0.5) & (t < 2.8), 4:6] = 1.0
            rows[t < 2.8, 6] = t[t < 2.8] / 2.8
            rows[(t >= 2.85) & (t < 3.5), :4] = (*self.sign, self.heat + 0.02)
        return blurred_levels(rows, 6)
