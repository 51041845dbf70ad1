"""Every public signature obeys one vocabulary: keyword-only options, one order of arguments, one name for one thing."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Iterator

import pytest

from fairloss.losses.catalogue import LOSSES
from tools.interface import Entry, entries

ENTRIES = {f"{entry.module}.{entry.name}": entry for entry in entries()}
each = pytest.mark.parametrize("path", ENTRIES)
KEYWORD, VARIADIC = inspect.Parameter.KEYWORD_ONLY, (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

# What a function or a forward may take by position, beside its first argument: data, one value per sample or per group.
DATA = {
    *("target", "groups", "concepts", "teacher_logits", "domains"),  # beside input, values, embeddings, rewards
    *(
        "y_true",
        "y_pred",
        "y_score",
        "values",
        "scores",
        "score_a",
        "score_b",
        "b",
        "performance",
        "disparity",
        "names",
    ),
    *("old_logp", "ref_logp", "advantages", "mask", "lowest", "labels", "answers"),
    *("response_mask", "uid"),  # verl's
    *("y", "attribute", "data"),  # scikit-learn's words, after training
}
BRITISH = re.compile(
    r"(normali|optimi|standardi|regulari|generali|minimi|maximi|summari)s|colour|centre|behaviour|labell"
)

# Methods that a framework calls: their signatures are the framework's.
FRAMEWORK = {"get_batch_samples", "compute_loss", "prediction_step", "load_state_dict", "set_epoch"}
FOREIGN = {"fairloss.integrations.verl.fair_grpo": "verl calls it by position, as it does every estimator"}
EXCEPTIONS = {"fairloss.check_inputs": "in forward's order, and any of its data may be left out"}
# Strings that no list could hold.
FREE_TEXT = {
    "fairness_reward": "a reward function's name, or weights",
    "image": "a placeholder in a text",
    "question": "a text",
    "title": "a heading",
    "model_name": "for the record",
    "within": "one of the caller's attributes",
    "separator": "between two labels, or two cells",
    "encoding": "a codec of Python",
    **dict.fromkeys(("target", "score", "values", "groups"), "a column of the caller's file"),
    "name": "of a metric, in tables",
    "attribute": "the caller's own",
    "performance_label": "of an axis",
    "disparity_label": "of an axis",
    "metric": "one of METRICS, which says which exist",
    "group_column": "of the caller's data",
    "label_column": "of the caller's data",
    "domain_column": "of the caller's data",
    "group_key": "of the caller's data",
    "domain_key": "of the caller's data",
}


def signatures(entry: Entry) -> Iterator[tuple[str, inspect.Signature]]:
    """The name's own signature and its methods'."""
    if entry.signature is not None:
        yield entry.name, entry.signature
    for name, signature in entry.methods.items():
        if signature is not None and name not in FRAMEWORK:
            yield f"{entry.name}.{name}", signature


def is_data(entry: Entry) -> bool:
    """Named tuples, dataclasses and typed dictionaries hold results: their fields are no options."""
    value = entry.scope.get(entry.name)
    return isinstance(value, type) and (
        hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__") or typing.is_typeddict(value)
    )


def positional(signature: inspect.Signature) -> list[inspect.Parameter]:
    return [p for p in signature.parameters.values() if p.kind is not KEYWORD and p.kind not in VARIADIC]


@each
def test_options_are_keyword_only(path):
    entry = ENTRIES[path]
    if path in FOREIGN or path in EXCEPTIONS:
        return
    for name, signature in signatures(entry):
        if name == entry.name and is_data(entry):
            continue
        _, *others = positional(signature) or [None]
        if entry.kind == "class" and name == entry.name:
            assert not others, f"{name}: {[p.name for p in others]} by position"
        for parameter in others:
            assert parameter.name in DATA, f"{name}: {parameter.name} by position"
            # Ids keep their place where they may be left out: (rewards, groups, domains), (features, groups).
            may_be_left_out = parameter.name in ("groups", "domains")
            assert parameter.default is parameter.empty or may_be_left_out, f"{name}: {parameter.name}"


@each
def test_the_number_of_groups_comes_first(path):
    entry = ENTRIES[path]
    if entry.kind == "class" and entry.signature and "num_groups" in entry.signature.parameters and not is_data(entry):
        names = [p.name for p in entry.signature.parameters.values() if p.kind not in VARIADIC]
        optional = entry.signature.parameters["num_groups"].default is not inspect.Parameter.empty
        assert names[0] == "num_groups" or optional, names


ORDER = {
    "logits": ["input", "target", "groups"],
    "values": ["values", "groups"],
    "embeddings": ["embeddings", "target", "groups"],
    "rewards": ["rewards", "groups", "domains"],
}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_forward_arguments_keep_one_order(loss):
    calls = [ENTRIES[f"fairloss.{loss.name}"].methods["forward"]]
    calls += [ENTRIES[f"fairloss.functional.{name}"].signature for name in loss.functions[:1]]
    for signature in calls:
        names = [p.name for p in positional(signature)]
        order = ORDER[loss.on]
        assert names[0] == order[0], names
        assert [n for n in names if n in order] == [n for n in order if n in names], names
        target = signature.parameters.get("target")
        assert target is None or target.default is target.empty or target.kind is KEYWORD


# What only one of a class and its function can take.
ONE_SIDED = {
    "GroupDROLoss": (
        {"num_groups", "step_size", "adjustment", "group_counts", "variant", "attribute_reduction"},
        {"q"},
    ),
}


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.functions], ids=lambda loss: loss.name)
def test_a_class_and_its_function_take_the_same_options(loss):
    entry = ENTRIES[f"fairloss.{loss.name}"]
    by_class = {*entry.signature.parameters, *entry.methods["forward"].parameters}
    by_function = set(ENTRIES[f"fairloss.functional.{loss.functions[0]}"].signature.parameters)
    of_class, of_function = ONE_SIDED.get(loss.name, (set(), set()))
    assert by_class - by_function == of_class
    assert by_function - by_class == of_function


@each
def test_names_are_spelled_one_way(path):
    entry = ENTRIES[path]
    names = {entry.name, *entry.methods}
    for _, signature in signatures(entry):
        names |= set(signature.parameters)
        names |= {value for value in literals(entry, signature) if isinstance(value, str)}
    assert not [name for name in names if BRITISH.search(name)]


def members(parameter: inspect.Parameter) -> list[ast.expr]:
    """The parts of a union, or the annotation itself."""
    if not isinstance(parameter.annotation, str):
        return []
    found = [ast.parse(parameter.annotation, mode="eval").body]
    while any(isinstance(node, ast.BinOp) for node in found):
        found = [n for node in found for n in ((node.left, node.right) if isinstance(node, ast.BinOp) else (node,))]
    return found


def literals(entry: Entry, signature: inspect.Signature) -> Iterator[object]:
    """The strings that parameters are typed to take, written out or by an alias."""
    for parameter in signature.parameters.values():
        for node in members(parameter):
            alias = entry.scope.get(ast.unparse(node))
            if typing.get_origin(alias) is typing.Literal:
                yield from typing.get_args(alias)
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                values = ast.literal_eval(node.slice)
                yield from values if isinstance(values, tuple) else (values,)


@each
def test_strings_to_choose_from_are_literal_types(path):
    entry = ENTRIES[path]
    for name, signature in signatures(entry):
        for parameter in signature.parameters.values():
            kinds = set(map(ast.unparse, members(parameter)))
            if parameter.name not in FREE_TEXT and not (name == entry.name and is_data(entry)):
                assert "str" not in kinds or "Path" in kinds, f"{name}: {parameter.name}"


@each
def test_one_name_for_one_thing(path):
    entry = ENTRIES[path]
    for name, signature in signatures(entry):
        parameters = signature.parameters
        assert not {"queue", "normalise", "group_weights"} & set(parameters), name
        if "reference" in parameters:
            assert "Memory" not in str(parameters["reference"].annotation), f"{name}: past samples are `memory`"
        if "reduction" in parameters:
            # Only of attributes the largest is taken.
            given = set(literals(entry, signature.replace(parameters=[parameters["reduction"]])))
            assert "max" not in given, f"{name}: reduction is of samples, `attribute_reduction` of attributes"
        if "variant" in parameters:
            given = set(literals(entry, signature.replace(parameters=[parameters["variant"]])))
            assert given <= {"default", "paper", "released"}, name


def test_nothing_of_the_lists_is_out_of_date():
    used = {p for entry in ENTRIES.values() for _, s in signatures(entry) for p in s.parameters}
    assert set(FREE_TEXT) <= used
    assert used >= DATA
    assert {*FOREIGN, *EXCEPTIONS} <= set(ENTRIES)
    assert {name for entry in ENTRIES.values() for name in entry.methods} >= FRAMEWORK
