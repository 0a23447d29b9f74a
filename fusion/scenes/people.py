"""People and bicycles of the procedural scenes: joints in metres, limbs as capsules, drawn far to near."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fusion.scenes.canvas import Camera, Frame, Sprite, capsule, circle

SKIN = ((0.62, 0.42, 0.32), (0.50, 0.32, 0.22), (0.30, 0.18, 0.12), (0.68, 0.48, 0.38))
HAIR = ((0.02, 0.018, 0.015), (0.07, 0.04, 0.02), (0.20, 0.13, 0.06), (0.25, 0.24, 0.23))
CLOTH = (
    (0.02, 0.022, 0.03),
    (0.05, 0.05, 0.055),
    (0.03, 0.05, 0.14),
    (0.10, 0.02, 0.025),
    (0.30, 0.04, 0.04),
    (0.45, 0.43, 0.40),
    (0.04, 0.10, 0.06),
    (0.16, 0.13, 0.09),
    (0.08, 0.16, 0.30),
    (0.36, 0.28, 0.10),
    (0.12, 0.12, 0.13),
    (0.22, 0.10, 0.20),
)


@dataclass(frozen=True)
class Place:
    """Where something stands and which way it looks (yaw 0 is away from the camera, pi / 2 to the right)."""

    x: float
    z: float
    yaw: float

    def points(self, side_up_forward_N3: np.ndarray | list) -> np.ndarray:
        """Local (side, up, forward) metres to world (X, Y, Z)."""
        p = np.asarray(side_up_forward_N3, np.float64).reshape(-1, 3)
        s, c = np.sin(self.yaw), np.cos(self.yaw)
        out = p.copy()
        out[:, 0] = self.x + p[:, 0] * c + p[:, 2] * s
        out[:, 2] = self.z - p[:, 0] * s + p[:, 2] * c
        return out


def _walk(rng: np.random.Generator, tall: float, stride: float) -> dict[str, tuple[float, float, float]]:
    """Joints of a walking (or, with stride 0, standing) person of height `tall`."""
    phase = rng.uniform(0, 2 * np.pi)
    joints: dict[str, tuple[float, float, float]] = {}
    for name, sign, at in (("l", -1, phase), ("r", 1, phase + np.pi)):
        swing = stride * np.sin(at)
        bend = stride * (0.25 + 0.9 * max(0.0, np.cos(at)))
        hip = (sign * 0.052 * tall, 0.52 * tall, 0.0)
        knee = (hip[0], hip[1] - 0.25 * tall * np.cos(swing), 0.25 * tall * np.sin(swing))
        low = swing - bend
        ankle = (
            hip[0] * 0.9,
            max(knee[1] - 0.235 * tall * np.cos(low), 0.035 * tall),
            knee[2] + 0.235 * tall * np.sin(low),
        )
        arm = -0.75 * swing + rng.uniform(-0.1, 0.15)
        fold = rng.uniform(0.15, 0.6) if rng.random() < 0.75 else 1.8
        shoulder = (sign * 0.105 * tall, 0.815 * tall, 0.0)
        elbow = (sign * 0.135 * tall, shoulder[1] - 0.175 * tall * np.cos(arm), 0.175 * tall * np.sin(arm))
        hand = (
            sign * 0.12 * tall,
            elbow[1] - 0.155 * tall * np.cos(arm + fold),
            elbow[2] + 0.155 * tall * np.sin(arm + fold),
        )
        joints |= {
            f"hip{name}": hip,
            f"knee{name}": knee,
            f"ankle{name}": ankle,
            f"toe{name}": (ankle[0], 0.02, ankle[2] + 0.11 * tall),
        }
        joints |= {f"shoulder{name}": shoulder, f"elbow{name}": elbow, f"hand{name}": hand}
    joints["neck"], joints["head"] = (0.0, 0.86 * tall, 0.01 * tall), (0.0, 0.925 * tall, 0.02 * tall)
    return joints


def _ride(rng: np.random.Generator, tall: float) -> dict[str, tuple[float, float, float]]:
    """Joints of a person on a bicycle (saddle 0.2 m behind the middle, 0.92 m up)."""
    turn = rng.uniform(0, 2 * np.pi)
    joints: dict[str, tuple[float, float, float]] = {}
    for name, sign, at in (("l", -1, turn), ("r", 1, turn + np.pi)):
        pedal = (sign * 0.13, 0.29 + 0.16 * np.sin(at), -0.02 + 0.16 * np.cos(at))
        hip = (sign * 0.09, 0.97, -0.2)
        middle = np.array([sign * 0.12, (pedal[1] + hip[1]) / 2 + 0.06, (pedal[2] + hip[2]) / 2 + 0.2])
        joints |= {
            f"hip{name}": hip,
            f"knee{name}": tuple(middle),
            f"ankle{name}": (pedal[0], pedal[1] + 0.05, pedal[2] - 0.05),
        }
        joints |= {f"toe{name}": (pedal[0], pedal[1] - 0.02, pedal[2] + 0.13)}
        joints |= {f"shoulder{name}": (sign * 0.18, 0.97 + 0.29 * tall, 0.1), f"elbow{name}": (sign * 0.24, 1.2, 0.22)}
        joints[f"hand{name}"] = (sign * 0.24, 1.07, 0.43)
    joints["neck"], joints["head"] = (0.0, 0.97 + 0.335 * tall, 0.14), (0.0, 0.97 + 0.40 * tall, 0.2)
    return joints


def draw_person(frame: Frame, place: Place, seed: int, light: np.ndarray, warm: float, pose: str, owner: int) -> None:
    """A person: `pose` is "walk", "stand" or "ride"; `warm` scales how much hotter than clothes the skin looks."""
    rng = np.random.default_rng(seed)
    tall = float(rng.uniform(1.55, 1.9)) if rng.random() > 0.1 else float(rng.uniform(1.1, 1.4))
    stride = {"walk": float(rng.uniform(0.3, 0.5)), "stand": 0.06, "ride": 0.0}[pose]
    joints = _ride(rng, max(tall, 1.6)) if pose == "ride" else _walk(rng, tall, stride)
    camera = frame.camera
    names = list(joints)
    world = place.points([joints[n] for n in names])
    flat = camera.project(world)
    at = {n: flat[i] for i, n in enumerate(names)}
    far = {n: world[i, 2] for i, n in enumerate(names)}
    px = camera.focal / place.z * tall  # pixels of a whole body
    outline = np.concatenate([flat - 0.09 * px, flat + 0.09 * px])
    sprite = Sprite(camera, outline)
    skin, hair = np.array(SKIN[rng.integers(len(SKIN))]), np.array(HAIR[int(len(HAIR) * rng.random() ** 1.8)])
    top, legs = np.array(CLOTH[rng.integers(len(CLOTH))]), np.array(CLOTH[rng.integers(len(CLOTH))]) * 0.7
    shoe = np.array((0.03, 0.03, 0.03)) if rng.random() < 0.6 else np.array((0.4, 0.38, 0.35))
    coat = pose != "ride" and rng.random() < 0.3
    pack = rng.random() < 0.3
    body = 0.74 + 0.12 * rng.random()  # heat of clothes, then of bare skin
    skin_heat, leg_heat = 0.93, body - 0.04
    side = 0.3 if rng.random() < 0.5 else -0.3
    from_front = -np.cos(place.yaw)  # 1 when looking at the camera

    def limb(a: str, ra: float, b: str, rb: float, colour: np.ndarray, heat: float) -> None:
        ra, rb = ra * px, rb * px
        sprite.polygon(capsule(at[a], ra, at[b], rb), colour * 0.72, heat * warm - 0.06)
        shift = np.array([side * ra, -0.1 * ra])
        sprite.polygon(capsule(at[a] + shift, ra * 0.62, at[b] + shift, rb * 0.62), colour * 1.15, heat * warm + 0.03)

    def torso() -> None:
        low = "knee" if coat else "hip"
        rings = [
            circle(at["shoulderl"], 0.042 * px, 10),
            circle(at["shoulderr"], 0.042 * px, 10),
            circle(at["neck"], 0.035 * px, 8),
        ]
        rings += [circle(at["hipl"], 0.058 * px, 10), circle(at["hipr"], 0.058 * px, 10)]
        if coat:
            rings += [circle(0.75 * at[low + s] + 0.25 * at["hip" + s], 0.062 * px, 10) for s in "lr"]
        hull = cv2.convexHull(np.concatenate(rings).astype(np.float32))[:, 0]
        sprite.polygon(hull, top * 0.78, (body - 0.04) * warm)
        middle = hull.mean(axis=0)
        sprite.polygon(middle + (hull - middle) * (0.62, 0.86) + (side * 0.05 * px, 0), top * 1.12, body * warm + 0.02)
        if from_front > 0.4:  # the open collar and the zip of a jacket
            sprite.polygon(
                capsule(at["neck"], 0.018 * px, at["neck"] * 0.6 + at["hipl"] * 0.2 + at["hipr"] * 0.2, 0.006 * px),
                top * 0.45,
                (body + 0.05) * warm,
            )

    def head() -> None:
        sprite.polygon(
            capsule(at["neck"] + (0, 0.02 * px), 0.03 * px, at["head"], 0.03 * px), skin * 0.7, skin_heat * warm
        )
        oval = np.array([0.92, 1.12])
        centre, r = at["head"], 0.058 * px
        ring = circle((0, 0), r, 18) * oval
        sprite.polygon(centre + ring, hair, (skin_heat - 0.14) * warm)
        if from_front > -0.55:
            look = np.array([np.sin(place.yaw) * 0.3 * r, 0.22 * r])
            sprite.polygon(centre + look + ring * (0.8 if from_front > 0.3 else 0.68), skin, skin_heat * warm + 0.04)

    parts: list[tuple[float, object]] = []
    for s in "lr":
        leg = (far["hip" + s] + far["knee" + s] + far["ankle" + s]) / 3
        parts.append((leg, lambda s=s: limb("ankle" + s, 0.024, "toe" + s, 0.018, shoe, body - 0.2)))
        parts.append((leg - 0.002, lambda s=s: limb("knee" + s, 0.034, "ankle" + s, 0.023, legs, leg_heat)))
        parts.append((leg - 0.004, lambda s=s: limb("hip" + s, 0.052, "knee" + s, 0.036, legs, leg_heat)))
        arm = (far["shoulder" + s] + far["elbow" + s]) / 2
        parts.append((arm, lambda s=s: limb("shoulder" + s, 0.033, "elbow" + s, 0.026, top, body)))
        parts.append(
            (
                far["hand" + s],
                lambda s=s: sprite.polygon(circle(at["hand" + s], 0.021 * px, 10), skin, skin_heat * warm),
            )
        )
        parts.append(
            (far["hand" + s] + 0.001, lambda s=s: limb("elbow" + s, 0.026, "hand" + s, 0.019, top, body - 0.02))
        )
    middle = (far["hipl"] + far["hipr"] + far["shoulderl"] + far["shoulderr"]) / 4
    parts.append((middle, torso))
    parts.append((far["head"] - 0.05, head))
    if pack:
        back = place.points(
            [(0, 0.72 * tall, -0.16), (0, 0.60 * tall, -0.16)] if pose != "ride" else [(0, 1.42, -0.1), (0, 1.2, -0.2)]
        )
        spots = camera.project(back)
        cloth = np.array(CLOTH[rng.integers(len(CLOTH))])
        parts.append(
            (
                back[0, 2],
                lambda: sprite.polygon(capsule(spots[0], 0.07 * px, spots[1], 0.075 * px), cloth, (body - 0.22) * warm),
            )
        )
    for _, draw in sorted(parts, key=lambda part: -part[0]):
        draw()
    sprite.paste(frame, place.z, light, owner, rng, texture=0.16)


def draw_bicycle(
    frame: Frame, place: Place, seed: int, light: np.ndarray, ambient: float, night: bool, owner: int
) -> None:
    """A bicycle 1.75 m long; cold in infrared but for the tyres of one in use."""
    rng = np.random.default_rng(seed)
    camera: Camera = frame.camera
    px = camera.focal / place.z
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    colour = np.array(CLOTH[rng.integers(len(CLOTH))]) * 1.3 + 0.03
    tyre, rim = np.array((0.02, 0.02, 0.02)), np.array((0.3, 0.3, 0.3))

    def to(points: list | np.ndarray) -> np.ndarray:
        return camera.project(place.points(points))

    wheels = {
        end: np.stack([np.zeros(24), 0.34 + 0.34 * np.sin(turn), end + 0.34 * np.cos(turn)], axis=1)
        for end in (-0.53, 0.53)
    }
    bars = to([(-0.27, 1.02, 0.38), (0.27, 1.02, 0.38)])
    sprite = Sprite(camera, np.concatenate([to(wheels[-0.53]), to(wheels[0.53]), bars]), margin=2 + 0.03 * px)
    warm = ambient + 0.12
    for end, ring in wheels.items():
        for spoke in range(0, 12, 2):
            sprite.stroke(to(ring[[spoke, spoke + 12]]), 0.008 * px, rim, ambient)
        sprite.stroke(to(ring), max(0.045 * px, 0.5), tyre, warm, closed=True)
        sprite.stroke(to((ring - (0, 0.34, end)) * 0.9 + (0, 0.34, end)), 0.015 * px, rim, ambient, closed=True)
    crank, seat, head, fork, rear = (
        (0, 0.29, -0.02),
        (0, 0.86, -0.2),
        (0, 0.86, 0.33),
        (0, 0.34, 0.53),
        (0, 0.34, -0.53),
    )
    for a, b in ((crank, seat), (seat, head), (crank, head), (head, fork), (rear, seat), (rear, crank)):
        sprite.stroke(to([a, b]), max(0.042 * px, 0.45), colour, ambient + 0.03)
    sprite.stroke(to([head, (0, 1.02, 0.36)]), 0.035 * px, rim * 0.5, ambient)
    sprite.stroke(bars, max(0.035 * px, 0.4), tyre, ambient + 0.08)
    sprite.stroke(to([(0, 0.93, -0.33), (0, 0.93, -0.08)]), max(0.07 * px, 0.5), tyre, ambient + 0.15)
    sprite.stroke(to([(0, 0.69, -0.53), (0, 0.70, -0.2)]), 0.03 * px, rim * 0.4, ambient)
    if night and np.cos(place.yaw) > 0.2:  # the red lamp at the back
        lamp = to([(0, 0.62, -0.58)])[0]
        sprite.polygon(circle(lamp, max(0.035 * px, 0.7), 8), (0.3, 0.0, 0.0), ambient + 0.1)
        sprite.glow(circle(lamp, max(0.035 * px, 0.7), 8), (2.5, 0.12, 0.08))
    sprite.paste(frame, place.z, light, owner, rng, texture=0.08)
