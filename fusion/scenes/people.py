"""People of the procedural scenes: joints in metres, limbs as capsules, drawn far to near."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from fusion.scenes.canvas import Frame, Place, Point, Sprite, capsule, circle

SKIN_HEAT = 0.93  # infrared level of bare skin
Joints = dict[str, Point]
Layer = tuple[float, Callable[[], None]]  # distance from the camera in metres, and what draws there
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


def _walk(rng: np.random.Generator, tall: float, stride: float) -> Joints:
    """Return the joints of a walking (or, with stride 0, standing) person of height `tall`, in metres."""
    phase = rng.uniform(0, 2 * np.pi)
    joints: Joints = {}
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


def _ride(rng: np.random.Generator, tall: float) -> Joints:
    """Return the joints of a person on a bicycle (saddle 0.2 m behind the middle, 0.92 m up)."""
    turn = rng.uniform(0, 2 * np.pi)
    joints: Joints = {}
    for name, sign, at in (("l", -1, turn), ("r", 1, turn + np.pi)):
        pedal = (sign * 0.13, 0.29 + 0.16 * np.sin(at), -0.02 + 0.16 * np.cos(at))
        hip = (sign * 0.09, 0.97, -0.2)
        middle = np.array([sign * 0.12, (pedal[1] + hip[1]) / 2 + 0.06, (pedal[2] + hip[2]) / 2 + 0.2])
        joints |= {
            f"hip{name}": hip,
            f"knee{name}": (float(middle[0]), float(middle[1]), float(middle[2])),
            f"ankle{name}": (pedal[0], pedal[1] + 0.05, pedal[2] - 0.05),
        }
        joints |= {f"toe{name}": (pedal[0], pedal[1] - 0.02, pedal[2] + 0.13)}
        joints |= {f"shoulder{name}": (sign * 0.18, 0.97 + 0.29 * tall, 0.1), f"elbow{name}": (sign * 0.24, 1.2, 0.22)}
        joints[f"hand{name}"] = (sign * 0.24, 1.07, 0.43)
    joints["neck"], joints["head"] = (0.0, 0.97 + 0.335 * tall, 0.14), (0.0, 0.97 + 0.40 * tall, 0.2)
    return joints


@dataclass(frozen=True)
class PersonLook:
    """Colours of a person, each (3,) linear albedo, and infrared levels before `warm` scales them."""

    skin: np.ndarray
    hair: np.ndarray
    top: np.ndarray
    legs: np.ndarray
    shoes: np.ndarray
    coat: bool
    pack: bool
    clothes_heat: float
    light_side: float  # the lit side of a limb, right for a positive value, as a share of its radius
    warm: float


def _choose_look(rng: np.random.Generator, warm: float, pose: str) -> PersonLook:
    skin, hair = np.array(SKIN[rng.integers(len(SKIN))]), np.array(HAIR[int(len(HAIR) * rng.random() ** 1.8)])
    top, legs = np.array(CLOTH[rng.integers(len(CLOTH))]), np.array(CLOTH[rng.integers(len(CLOTH))]) * 0.7
    shoes = np.array((0.03, 0.03, 0.03)) if rng.random() < 0.6 else np.array((0.4, 0.38, 0.35))
    coat = pose != "ride" and rng.random() < 0.3
    pack = rng.random() < 0.3
    clothes_heat = 0.74 + 0.12 * rng.random()
    light_side = 0.3 if rng.random() < 0.5 else -0.3
    return PersonLook(skin, hair, top, legs, shoes, coat, pack, clothes_heat, light_side, warm)


class PersonPainter:
    """Draws the parts of one person on a sprite, from joints in metres."""

    def __init__(self, frame: Frame, place: Place, tall: float, joints: Joints, look: PersonLook) -> None:
        world_N3 = place.points(list(joints.values()))
        image_N2 = frame.camera.project(world_N3)
        self.joints, self.look, self.camera, self.tall = joints, look, frame.camera, tall
        self.at = dict(zip(joints, image_N2, strict=True))
        self.distance = dict(zip(joints, world_N3[:, 2], strict=True))
        self.yaw = place.yaw
        self.from_front = -np.cos(place.yaw)  # 1 when looking at the camera
        self.body = frame.camera.focal / place.z * tall  # pixels of a whole body
        self.sprite = Sprite(frame.camera, np.concatenate([image_N2 - 0.09 * self.body, image_N2 + 0.09 * self.body]))

    def depth(self, *names: str) -> float:
        """Return the mean distance of joints from the camera, metres."""
        return float(sum(self.distance[name] for name in names) / len(names))

    def limb(self, a: str, a_radius: float, b: str, b_radius: float, colour: np.ndarray, heat: float) -> None:
        """Draw a limb from joint a to joint b, its radii as shares of the whole body, with a lighter side."""
        ra, rb, warm = a_radius * self.body, b_radius * self.body, self.look.warm
        a_2, b_2 = self.at[a], self.at[b]
        self.sprite.polygon(capsule(a_2, ra, b_2, rb), colour * 0.72, heat * warm - 0.06)
        shift = np.array([self.look.light_side * ra, -0.1 * ra])
        lit = capsule(a_2 + shift, ra * 0.62, b_2 + shift, rb * 0.62)
        self.sprite.polygon(lit, colour * 1.15, heat * warm + 0.03)

    def limbs(self, side: str) -> list[Layer]:
        """Return the leg and the arm of a side ("l" or "r"), each part with its distance."""
        look, heat = self.look, self.look.clothes_heat
        hip, knee, ankle, toe = (f"{name}{side}" for name in ("hip", "knee", "ankle", "toe"))
        shoulder, elbow, hand = (f"{name}{side}" for name in ("shoulder", "elbow", "hand"))
        leg, arm, palm = self.depth(hip, knee, ankle), self.depth(shoulder, elbow), self.depth(hand)
        return [
            (leg, partial(self.limb, ankle, 0.024, toe, 0.018, look.shoes, heat - 0.2)),
            (leg - 0.002, partial(self.limb, knee, 0.034, ankle, 0.023, look.legs, heat - 0.04)),
            (leg - 0.004, partial(self.limb, hip, 0.052, knee, 0.036, look.legs, heat - 0.04)),
            (arm, partial(self.limb, shoulder, 0.033, elbow, 0.026, look.top, heat)),
            (palm, partial(self.palm, hand)),
            (palm + 0.001, partial(self.limb, elbow, 0.026, hand, 0.019, look.top, heat - 0.02)),
        ]

    def palm(self, hand: str) -> None:
        """Draw a bare hand."""
        self.sprite.polygon(circle(self.at[hand], 0.021 * self.body, 10), self.look.skin, SKIN_HEAT * self.look.warm)

    def torso(self) -> None:
        """Draw the torso, or a coat down to the knees, as the hull of its joints."""
        at, body, look = self.at, self.body, self.look
        rings = [circle(at[name], 0.042 * body, 10) for name in ("shoulderl", "shoulderr")]
        rings += [circle(at["neck"], 0.035 * body, 8)]
        rings += [circle(at[name], 0.058 * body, 10) for name in ("hipl", "hipr")]
        if look.coat:
            rings += [circle(0.75 * at["knee" + s] + 0.25 * at["hip" + s], 0.062 * body, 10) for s in "lr"]
        hull = cv2.convexHull(np.concatenate(rings).astype(np.float32))[:, 0]
        heat = look.clothes_heat
        self.sprite.polygon(hull, look.top * 0.78, (heat - 0.04) * look.warm)
        middle = hull.mean(axis=0)
        lit = middle + (hull - middle) * (0.62, 0.86) + (look.light_side * 0.05 * body, 0)
        self.sprite.polygon(lit, look.top * 1.12, heat * look.warm + 0.02)
        if self.from_front > 0.4:  # the open collar and the zip of a jacket
            foot = at["neck"] * 0.6 + at["hipl"] * 0.2 + at["hipr"] * 0.2
            zip_line = capsule(at["neck"], 0.018 * body, foot, 0.006 * body)
            self.sprite.polygon(zip_line, look.top * 0.45, (heat + 0.05) * look.warm)

    def head(self) -> None:
        """Draw neck, hair and, from the front or the side, the face."""
        at, body, look = self.at, self.body, self.look
        neck = capsule(at["neck"] + (0, 0.02 * body), 0.03 * body, at["head"], 0.03 * body)
        self.sprite.polygon(neck, look.skin * 0.7, SKIN_HEAT * look.warm)
        centre, radius = at["head"], 0.058 * body
        oval = circle((0, 0), radius, 18) * np.array([0.92, 1.12])
        self.sprite.polygon(centre + oval, look.hair, (SKIN_HEAT - 0.14) * look.warm)
        if self.from_front > -0.55:
            shift = np.array([np.sin(self.yaw) * 0.3 * radius, 0.22 * radius])
            face = centre + shift + oval * (0.8 if self.from_front > 0.3 else 0.68)
            self.sprite.polygon(face, look.skin, SKIN_HEAT * look.warm + 0.04)

    def backpack(self, place: Place, riding: bool, colour: np.ndarray) -> Layer:
        """Return a backpack with its distance."""
        upright = [(0, 0.72 * self.tall, -0.16), (0, 0.60 * self.tall, -0.16)]
        back_23 = place.points([(0, 1.42, -0.1), (0, 1.2, -0.2)] if riding else upright)
        top, bottom = self.camera.project(back_23)
        outline = capsule(top, 0.07 * self.body, bottom, 0.075 * self.body)
        heat = (self.look.clothes_heat - 0.22) * self.look.warm
        return float(back_23[0, 2]), partial(self.sprite.polygon, outline, colour, heat)


def draw_person(frame: Frame, place: Place, seed: int, light: np.ndarray, warm: float, pose: str, owner: int) -> None:
    """Draw a person.

    `light` is RGB (3,); `warm` scales all infrared levels; `pose` is "walk", "stand" or "ride".
    """
    rng = np.random.default_rng(seed)
    tall = float(rng.uniform(1.55, 1.9)) if rng.random() > 0.1 else float(rng.uniform(1.1, 1.4))
    stride = {"walk": float(rng.uniform(0.3, 0.5)), "stand": 0.06, "ride": 0.0}[pose]
    joints = _ride(rng, max(tall, 1.6)) if pose == "ride" else _walk(rng, tall, stride)
    painter = PersonPainter(frame, place, tall, joints, _choose_look(rng, warm, pose))
    layers = [layer for side in "lr" for layer in painter.limbs(side)]
    layers.append((painter.depth("hipl", "hipr", "shoulderl", "shoulderr"), painter.torso))
    layers.append((painter.depth("head") - 0.05, painter.head))
    if painter.look.pack:
        layers.append(painter.backpack(place, pose == "ride", np.array(CLOTH[rng.integers(len(CLOTH))])))
    for _, draw in sorted(layers, key=lambda layer: -layer[0]):
        draw()
    painter.sprite.paste(frame, place.z, light, owner, rng, texture=0.16)
