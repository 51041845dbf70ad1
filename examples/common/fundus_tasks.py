"""The named tasks of the rendered photographs: what sets the groups apart in each, and how hard the label is to see.

Two kinds of gap are built in, and a fair comparison needs both. One is *closable*: the minority's photographs show
the same sign in another way (a darker fundus, a cup that is grey in place of pale, a larger healthy cup), which a
network learns if the minority weighs enough. The other is *not closable* by any loss: noise, haze or milder disease
make the minority's label harder to see for everyone.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER_SHARES = (0.903, 0.043, 0.054)


@dataclass(frozen=True)
class Look:
    """What one group's photographs look like, and its disease."""

    name: str
    pigment: float = 0.15  # 0 light to 1 dark fundus
    contrast: float = 1.0  # of cup against rim and rim against fundus
    pallor: float = 1.0  # of the cup against the rim; negative: the cup is the darker part
    noise: float = 0.02  # of the camera, 1 = full scale
    blur: float = 0.3  # 0 sharp to 1 out of focus
    haze: float = 0.05  # stray light
    red: float = 1.0  # gain of the camera's channels
    green: float = 1.0
    blue: float = 1.0
    gamma: float = 1.0
    disc_size: float = 1.0
    norm: float = 0.0  # added to the limit of the cup-to-disc ratio: a larger healthy cup
    severity: float = 0.17  # scale of the ratio's distance from the limit
    prevalence: float = 0.45


@dataclass(frozen=True)
class Task:
    """Groups in one population; ``limit`` is the cup-to-disc ratio above which the label is glaucoma."""

    name: str
    about: str
    looks: tuple[Look, ...]
    shares: tuple[float, ...] = PAPER_SHARES
    limit: float = 0.55

    @property
    def group_names(self) -> tuple[str, ...]:
        return tuple(look.name for look in self.looks)


LIGHT = Look("light")

TASKS = {
    task.name: task
    for task in (
        Task(
            "standard",
            "darker fundus, weaker contrast, more noise, milder disease and larger healthy cups in the minorities",
            (
                LIGHT,
                Look("dark", pigment=0.85, contrast=0.7, noise=0.04, norm=0.18, disc_size=1.08, severity=0.14),
                Look("medium", pigment=0.5, contrast=0.85, noise=0.03, norm=0.09, disc_size=1.04, severity=0.15),
            ),
        ),
        Task(
            "pigmentation",
            "darker fundus, in which the cup is grey where it is pale in the majority",
            (LIGHT, Look("dark", pigment=0.9, pallor=-0.7), Look("medium", pigment=0.55, pallor=0.25)),
        ),
        Task(
            "low-contrast",
            "weaker contrast and stray light in the minorities",
            (LIGHT, Look("hazy", contrast=0.5, haze=0.35), Look("faint", contrast=0.6, haze=0.15)),
        ),
        Task(
            "noise",
            "noisier and less sharp cameras in the minorities",
            (LIGHT, Look("noisy", noise=0.12, blur=0.3), Look("blurred", noise=0.03, blur=1.0)),
        ),
        Task(
            "mild-disease",
            "cup-to-disc ratios nearer to the limit in the minorities, photographs alike",
            (LIGHT, Look("mild", pigment=0.3, severity=0.07), Look("milder", pigment=0.3, severity=0.10)),
        ),
        Task(
            "large-discs",
            "larger discs with larger healthy cups in the minorities: another limit of the ratio",
            (
                LIGHT,
                Look("large", pigment=0.6, disc_size=1.15, norm=0.17),
                Look("small", pigment=0.35, disc_size=0.85, norm=-0.13),
            ),
        ),
        Task(
            "prevalence",
            "rare disease in one minority, frequent in the other, and darker photographs of both",
            (
                Look("light", prevalence=0.4),
                Look("rare", pigment=0.7, contrast=0.75, prevalence=0.12),
                Look("frequent", pigment=0.4, contrast=0.75, prevalence=0.75),
            ),
        ),
        Task(
            "camera",
            "two sites of equal patients: the smaller has a greenish, flat, noisier camera",
            (Look("site A"), Look("site B", red=0.8, green=1.15, gamma=0.7, noise=0.05, contrast=0.7, norm=0.08)),
            shares=(0.92, 0.08),
        ),
        Task(
            "four-groups",
            "four degrees of pigmentation at shares 70/15/10/5, the cup fainter with each",
            (
                Look("lightest", pigment=0.05),
                Look("light", pigment=0.3, contrast=0.9, norm=0.03),
                Look("medium", pigment=0.6, contrast=0.75, norm=0.08),
                Look("dark", pigment=0.9, contrast=0.6, norm=0.13),
            ),
            shares=(0.70, 0.15, 0.10, 0.05),
        ),
    )
}
