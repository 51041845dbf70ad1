"""The FairGRPO example runs, saves, resumes, logs each group, and takes a real model's folder."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [
    pytest.mark.examples,
    pytest.mark.filterwarnings("default"),  # TRL and transformers warn of their own deprecations
]
ROOT = Path(__file__).resolve().parents[2]


def run_script(tmp_path, *options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / "fair_grpo.py"), "--tiny", "--out", str(tmp_path), *options]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout, json.loads((tmp_path / "fair_grpo.json").read_text())


def test_script_runs_tiny_saves_resumes_and_logs_every_group(tmp_path):
    out, found = run_script(tmp_path, "--save-steps", "2", "--steps", "2")
    assert "F1 gap" in out
    assert list(found["results"]) == list(found["runs"]) == ["GRPO", "GRPO+DRO", "FairGRPO", "FairGRPO_ND"]
    for method, seeds in found["runs"].items():
        assert len(seeds) == 2
        for one in seeds:
            assert [point["step"] for point in one["curve"]] == [0, 2]
            assert all(0 <= point[key] <= 1 for point in one["curve"] for key in ("f1", "worst_f1", "gap_f1"))
            keys = {key for line in one["log"] for key in line}
            who = {key.rsplit("/", 1)[1] for key in keys if key.startswith("fair/weight/")}
            assert who <= {"middle", "old", "young", "group_unknown"}
            assert ("group_unknown" in who) == (method == "FairGRPO_ND")
            assert {key.replace("weight", "reward") for key in keys} <= keys
            if method == "GRPO":
                assert {line[key] for line in one["log"] for key in line if "weight" in key} == {1.0}
    assert (tmp_path / "fair_grpo.png").stat().st_size > 20_000
    assert "| FairGRPO |" in (tmp_path / "fair_grpo.md").read_text()

    _, again = run_script(tmp_path, "--steps", "4", "--resume", "--methods", "FairGRPO", "--seeds", "1")
    resumed, old = again["runs"]["FairGRPO"][0], found["runs"]["FairGRPO"][0]
    assert [line["step"] for line in resumed["log"]] == [1, 2, 3, 4]
    assert resumed["log"][:2] == old["log"]


def test_the_task_is_what_it_says():
    diagnosis = pytest.importorskip("common.diagnosis")
    cases = diagnosis.draw(20_000, 0)
    np.testing.assert_allclose(np.bincount(cases.group) / 20_000, diagnosis.GROUP_SHARES, atol=0.01)
    np.testing.assert_allclose(np.bincount(cases.domain) / 20_000, diagnosis.DOMAIN_SHARES, atol=0.01)
    places = list(itertools.product(range(3), repeat=3))  # domain, class, which
    of_group = [{diagnosis.word(d, g, c, k): c for d, c, k in places} for g in range(3)]
    assert of_group[0].keys() == of_group[1].keys() == of_group[2].keys()
    assert [len(table) for table in of_group] == [27] * 3
    assert [sum(table[w] != of_group[0][w] for w in table) for table in of_group] == [0, 9, 18]
    # The best possible answer is the diagnosis that most findings point to.
    votes = np.stack([[of_group[g][w] for w in row] for row, g in zip(cases.findings, cases.group, strict=True)])
    best = np.array([np.bincount(v, minlength=3).argmax() for v in votes])
    right = [(best == cases.label)[cases.group == g].mean() for g in range(3)]
    assert right[0] > 0.94
    assert 0.88 < right[1] < 0.93
    assert abs(right[1] - right[2]) < 0.03
    balanced = diagnosis.draw(900, 1, balanced=True)
    assert (np.unique(balanced.domain * 3 + balanced.group, return_counts=True)[1] == 100).all()


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("answer B", "B"),
        ("I think so. Answer: c", "C"),
        ("answer A, no, answer C", "C"),
        ("B", None),
        ("answer Bee", None),
    ],
)
def test_answers_are_read(text, letter):
    diagnosis = pytest.importorskip("common.diagnosis")
    assert diagnosis.answer(text) == letter
    assert diagnosis.answer([{"role": "assistant", "content": text}]) == letter
    assert diagnosis.reward([text], [letter or "A"]) == [float(letter is not None)]


TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}answer {% endif %}"


def test_a_model_from_a_folder_with_a_chat_template(tmp_path):
    diagnosis, example = pytest.importorskip("common.diagnosis"), pytest.importorskip("fair_grpo")
    words = diagnosis.tokenizer()
    words.chat_template = TEMPLATE
    folder = str(tmp_path / "model")
    diagnosis.small_model(words, 0, longest=256).save_pretrained(folder)
    words.save_pretrained(folder)
    options = ["--tiny", "--seeds", "1", "--methods", "FairGRPO", "--out", str(tmp_path / "out"), "--model", folder]
    results = example.main([*options, "--max-tokens", "2", "--accumulation", "2"])
    assert 0 <= results["FairGRPO"]["accuracy"].value <= 1


WORDS = ["<pad>", "<eos>", "<image>", "answer", "A", "B", "C", "Does", "this", "glaucoma?"]
PICTURE_TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }} {% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}answer {% endif %}"
)


def vision_language_model(folder):
    """A random LLaVA of a few thousand parameters with its processor, saved to ``folder``."""
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "extra_special_tokens": {"image_token": "<image>"}}
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **special)
    images = hf.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    hf.LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=PICTURE_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    eyes = hf.CLIPVisionConfig(**small, num_hidden_layers=2, image_size=16, patch_size=8, projection_dim=16)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    text = hf.LlamaConfig(**small, **ids, num_hidden_layers=1, vocab_size=len(WORDS), max_position_embeddings=128)
    config = hf.LlavaConfig(vision_config=eyes, text_config=text, image_token_id=2, image_seq_length=4)
    hf.LlavaForConditionalGeneration(config).save_pretrained(folder)


def test_a_vision_language_model_from_a_folder(tmp_path):
    example = pytest.importorskip("fair_grpo")
    vision_language_model(str(tmp_path / "model"))
    options = [
        "--tiny",
        "--seeds",
        "1",
        "--methods",
        "FairGRPO_ND",
        "--steps",
        "2",
        "--max-tokens",
        "2",
        "--photographs",
    ]
    example.main([*options, "--out", str(tmp_path / "out"), "--model", str(tmp_path / "model")])
    found = json.loads((tmp_path / "out" / "fair_grpo.json").read_text())["runs"]["FairGRPO_ND"][0]
    assert {key for line in found["log"] for key in line} >= {"fair/weight/photographs/group_unknown"}


def test_photographs_become_questions_with_images():
    diagnosis, fundus = pytest.importorskip("common.diagnosis"), pytest.importorskip("common.fundus")
    cases = fundus.make("standard", counts=[2, 2, 2], seed=0, size=32)
    rows = diagnosis.photographs(cases)
    assert rows[0]["image"].size == (32, 32)
    assert rows[0]["prompt"][0]["role"] == "user"
    assert rows["group"] == cases.group.tolist()
    assert [diagnosis.CLASSES.index(x) for x in rows["diagnosis"]] == cases.label.tolist()
    example = pytest.importorskip("fair_grpo")
    with pytest.raises(SystemExit, match="vision-language"):
        example.main(["--photographs", "--tiny"])
