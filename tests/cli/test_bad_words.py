"""Words that are none: verbs, studies, keys, choices, overrides, and files of the user's that are wrong."""

from __future__ import annotations

import json

import pytest
from working_folder import STUDY, Folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["swep"], ["unknown verb 'swep'", "Did you mean 'sweep'?"]),
        (["sweep"], ["name a study: study=NAME", "tiny", "quickstart"]),
        (["plan"], ["name a study"]),
        (["sweep", "study=tinny"], ["study=tinny", "sweeps/tinny.yaml", "Did you mean 'tiny'?"]),
        (["plan", "tinny"], ["Did you mean 'tiny'?"]),
        (["plan", "tiny", "modl.width=1"], ["unknown key 'modl.width'", "Did you mean 'model.width'?"]),
        (["plan", "tiny", "optim.bach=1"], ["optim.bach", "conf/optim/few_steps.yaml", "Did you mean 'optim.batch'?"]),
        (["plan", "tiny", "neck=pan_c4"], ["neck=pan_c4", "Did you mean 'pan_c3'?"]),
        (["sweep", "tiny", "stem=focus"], ["stem=focus", "overruled", "factor 'stem'", "sweeps/tiny.yaml"]),
        (["sweep", "tiny", "model.width"], ["'model.width' is not an override", "expected key=value"]),
        (["sweep", "model.width", "study=tiny"], ["'model.width' is not an override", "expected key=value"]),
        (["config", "stem"], ["'stem' is not an override", "expected key=value"]),
        (["config", "=3"], ["'=3' is not an override"]),
        (["config", "seed=[1,2"], ["'seed=[1,2' is not an override"]),
        (["config", "+stem.colour=1"], ["+stem.colour=1", "not added or deleted"]),
        (["train", "stem=focus,conv3x3"], ["names several values", "--multirun"]),
        (["sweep", "tiny", "seed=5"], ["seed=5 would change nothing", "seeds=[0,1,2]"]),
        (["sweep", "tiny", "seeds=[-1]"], ["the command line: seeds", "from 0", "[-1]"]),
        (["sweep", "tiny", "seeds=[]"], ["seeds", "found []"]),
        (["sweep", "tiny", "seeds=3"], ["seeds: expected a list, found 3"]),
        (["sweep", "tiny", "design=grd"], ["design 'grd'", "Did you mean 'grid'?"]),
        (["train", "seed=-1"], ["seed", "from 0", "[-1]"]),
        (["eval", "model=yolov5n"], ["name the weights", "weights=FILE"]),
        (["report", "study=quickstat"], ["quickstat"]),
    ],
)
def test_a_word_that_is_none_is_told_with_the_nearest(folder: Folder, words: list[str], says: list[str]) -> None:
    folder.refused(*words, says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", ["sweeps/tiny.yaml", "expected keys such as question"]),
        (b"- a\n", ["sweeps/tiny.yaml", "found list"]),
        (b"question: [1\n", ["sweeps/tiny.yaml", "not valid YAML", "line 2"]),
        (b"design: grid\ndesign: ladder\n", ["sweeps/tiny.yaml", "line 2", "duplicate key design"]),
        (b"\xff\xfe\x00", ["sweeps/tiny.yaml", "not a text file"]),
        (b"qestion: x\n", ["sweeps/tiny.yaml", "unknown key 'qestion'", "Did you mean 'question'?"]),
        (b"question: 3\n", ["sweeps/tiny.yaml", "question: expected text, found 3"]),
        (b"base: 3\n", ["sweeps/tiny.yaml", "base: expected a group of keys, found 3"]),
        (b"base: {stem: focsu}\n", ["stem=focsu", "sweeps/tiny.yaml", "Did you mean 'focus'?"]),
        (b"base: {model.widht: 1}\n", ["model.widht", "sweeps/tiny.yaml", "Did you mean 'model.width'?"]),
        (b"base: {seed: 3}\n", ["sweeps/tiny.yaml: base", "seed=3 would change nothing"]),
        (b"factors: {a: [1, 2]}\n", ["sweeps/tiny.yaml: factors.a: expected levels", "[1, 2]"]),
        (b"factors: {a: {x: 3}}\n", ["sweeps/tiny.yaml: factors.a.x: expected overrides", "found 3"]),
        (b"factors: {a: {on: {}}}\n", ["factors.a", "quote it"]),
        (b"factors: {a: {x: {stem.channels: wide}}}\n", ["stem.channels", "a=x", "a whole number", "'wide'"]),
        (b"design: grd\n", ["design 'grd'", "Did you mean 'grid'?"]),
        (b"design: list\n", ["takes its points from `variants`"]),
        (b"exclude: [{stem: x}]\n", ["exclude: unknown factor 'stem'"]),
        (b"seeds: [a]\n", ["sweeps/tiny.yaml: seeds", "['a']"]),
        (b"measure: {resolutions: 320}\n", ["eval.resolutions: expected a list", "sweeps/tiny.yaml"]),
    ],
)
def test_a_wrong_study_file_is_told_with_file_and_key(folder: Folder, text: bytes, says: list[str]) -> None:
    folder.write("sweeps/tiny.yaml", text)
    folder.refused("sweep", "study=tiny", says=says)


def test_a_study_file_reads_numbers_as_a_configuration_does(folder: Folder) -> None:
    folder.write("sweeps/tiny.yaml", STUDY.replace("eval.every: 0", "eval.every: 0\n  optim.adamw_lr: 1e-3"))
    assert folder.run("plan", "tiny").code == 0


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("neck/mine", "a: [1\n", ["conf/neck/mine.yaml", "not valid YAML", "line 2"]),
        ("neck/mine", "a: 1\na: 2\n", ["conf/neck/mine.yaml", "line 2", "duplicate key a"]),
        ("neck/mine", "- 1\n", ["conf/neck/mine.yaml", "expected keys and their values", "[1]"]),
        ("neck/mine", "_target_: a.B\nx: ${model.widht}\n", ["neck.x", "model.widht"]),
        ("neck/mine", "_target_: a.B\nx: ${chanels:1,2}\n", ["neck.x", "chanels"]),
        ("neck/mine", "_target_: a.B\nx: .nan\n", ["neck.x", "nan", "finite"]),
        ("neck/mine", "_target_: a.B\nx: [1, .inf]\n", ["neck.x", "inf", "finite"]),
        (
            "model/mine",
            "# @package _global_\nmodel: {widht: 1}\n",
            ["conf/model/mine.yaml", "model.widht", "'model.width'"],
        ),
        ("model/mine", "# @package _global_\nneck: {c3: {count: 1}}\n", ["conf/model/mine.yaml", "neck.c3.count"]),
        ("model/mine", "# @package _global_\ndefaults:\n  - override /stm: focus\n", ["model/mine", "stm"]),
    ],
)
def test_a_wrong_configuration_file_is_told_with_its_name(
    folder: Folder, name: str, text: str, says: list[str]
) -> None:
    folder.write(f"conf/{name}.yaml", text)
    group, _, choice = name.partition("/")
    folder.write("sweeps/tiny.yaml", STUDY.replace("  model: yolov5n\n", "") if group == "model" else STUDY)
    folder.refused("sweep", "tiny", f"{group}={choice}", says=says)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("eval.resolutions=[0]", ["eval.resolutions[0]=0", "the command line", "a whole number from 32 to"]),
        ("eval.resolutions=[64,-64]", ["eval.resolutions[1]=-64"]),
        ("eval.resolutions=[]", ["eval.resolutions=[]", "at least one entry"]),
        ("schedule.imgsz=0", ["schedule.imgsz=0", "a whole number from 32 to"]),
        ("schedule.imgsz=-64", ["schedule.imgsz=-64", "a whole number from 32 to"]),
        ("schedule.epochs=0", ["schedule.epochs=0", "a whole number from 1 on"]),
        ("schedule.epochs=-1", ["schedule.epochs=-1", "a whole number from 1 on"]),
        ("schedule.epochs=1.5", ["schedule.epochs", "a whole number", "1.5"]),
        ("schedule.phases=[{imgsz:64,epochs:1,lr:1,stage_epochs:0}]", ["phases[0].stage_epochs=0", "from 1 on"]),
        ("optim.micro_batch=0", ["optim.micro_batch=0", "a divisor of optim.batch=4, or null"]),
        ("optim.micro_batch=16", ["optim.micro_batch=16", "a divisor of optim.batch=4, or null"]),
        ("optim.micro_batch=3", ["optim.micro_batch=3", "a divisor of optim.batch=4, or null"]),
        ("optim.micro_batch=half", ["optim.micro_batch=half", "a divisor of optim.batch=4, or null"]),
        ("schedule.phases=[]", ["schedule.phases=[]", "at least one entry"]),
        ("schedule.phases=[{imgsz:64}]", ["schedule.phases[0]", "the keys epochs, imgsz, lr"]),
        ("schedule.phases=[{imgsz:64,epochs:1,lr:1,epoch:2}]", ["schedule.phases[0]", "Did you mean 'epochs'?"]),
        ("schedule.phases=[{imgsz:64,epochs:1,lr:fast}]", ["schedule.phases[0].lr=fast", "a number above 0"]),
        ("optim.batch=0", ["optim.batch=0", "a whole number from 1 on"]),
        ("optim.batch=-3", ["optim.batch=-3", "a whole number from 1 on"]),
        ("optim.ema=1", ["optim.ema=1.0", "a number from 0 to below 1"]),
        ("optim.decay=cosin", ["optim.decay=cosin", "Did you mean 'cosine'?"]),
        ("optim.betas=[0.9]", ["optim.betas=[0.9]", "2 numbers"]),
        ("optim.muon_lr=nan", ["optim.muon_lr", "finite"]),
        ("augment.affine.scale=2", ["augment.affine.scale=2.0", "a number from 0 to below 1"]),
        ("augment.mosaic.p=1.5", ["augment.mosaic.p=1.5", "a number from 0 to 1"]),
        ("augment.mixup.until=-1", ["augment.mixup.until=-1", "a number from 0 to 1"]),
        ("preprocess.std=[0,0,0]", ["preprocess.std[0]=0.0", "a number above 0"]),
        ("preprocess.pad=300", ["preprocess.pad=300", "a whole number from 0 to 255"]),
        ("eval.conf=2", ["eval.conf=2.0", "a number from 0 to below 1"]),
        ("eval.batch=0", ["eval.batch=0", "a whole number from 1 on"]),
        ("eval.split=vall", ["eval.split=vall", "Did you mean 'val'?", "train, val"]),
        ("eval.split=test", ["eval.split=test", "no split 'test'"]),
        ("engine.threads=0", ["engine.threads=0", "a whole number from 1 to"]),
        ("engine.threads=100000", ["engine.threads=100000", "a whole number from 1 to"]),
        ("engine.device=gpu", ["engine.device=gpu", "There are: auto, cpu, cuda"]),
        ("engine.precision=fp8", ["engine.precision=fp8", "Did you mean 'fp32'?"]),
        ("model.width=0", ["model.width", "above 0", "found 0"]),
        ("model.depth=-1", ["model.depth", "above 0", "found -1"]),
        ("head_prune.ratio=1", ["head_prune.ratio", "[0, 1)", "found 1"]),
        ("model.classes=3", ["model.classes=3", "the data has 10 classes"]),
        ("stem.channels=wide", ["stem.channels", "a whole number", "'wide'"]),
        ("data.objects=[3,1]", ["data.objects", "[3, 1]", "[low, high]"]),
        ("data.objects=[2]", ["data.objects", "[2]", "[low, high]"]),
        ("data.objects=[0,0]", ["data.train", "no box"]),
        ("data.data_seed=-1", ["data.data_seed", "-1", "at least 0"]),
        ("data.train=-1", ["data.train", "-1", "at least 0"]),
        ("data.train=0", ["data.train", "no split 'train'"]),
        ("data.val=0", ["eval.split=val", "no split 'val'", "There are: train"]),
    ],
)
def test_a_value_out_of_range_is_told_before_anything_runs(folder: Folder, word: str, says: list[str]) -> None:
    folder.refused("sweep", "tiny", word, says=says)
    assert folder.published() == {}


def test_limits_hold_for_groups_of_ones_own_with_the_file_named(folder: Folder) -> None:
    coco = {"resolutions": [64], "split": "val", "conf": 0.1, "iou": 0.6, "max_nms": 9, "max_det": 9, "every": 0}
    coco |= {"clip": True, "precision": "engine"}
    folder.write("conf/eval/mine.yaml", json.dumps(coco | {"batch": -4}))
    folder.refused("sweep", "tiny", "eval=mine", says=["eval.batch=-4", "conf/eval/mine.yaml", "from 1 on"])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("schedule.imgsz=100", ["imgsz=100", "not a multiple of 32", "96 is"]),
        ("eval.resolutions=[330]", ["imgsz=330", "not a multiple of 32", "320 is"]),
        ("preprocess.resize=leterbox", ["preprocess.resize", "Did you mean 'letterbox'?"]),
        ("preprocess.channels=gbr", ["preprocess.channels", "rgb"]),
        ("preprocess.interpolation=cubic", ["preprocess.interpolation", "cubic", "area, linear"]),
        ("optim.name=adam", ["optim.name=adam", "Did you mean 'adamw'?"]),
        ("stem.channels=0", ["channels", "from 1 on", "found 0"]),
        ("neck.activation=swish", ["neck.activation 'swish'", "silu"]),
        ("backbone.tail=sppff", ["backbone.tail 'sppff'", "Did you mean 'sppf'?"]),
        ("head.anchor_t=0", ["head.anchor_t", "above 1"]),
    ],
)
def test_what_a_network_refuses_refuses_the_sweep_before_training(folder: Folder, word: str, says: list[str]) -> None:
    folder.refused("sweep", "tiny", word, says=says)


def test_a_mistake_that_concerns_every_variant_is_told_once(folder: Folder) -> None:
    message = folder.refused("sweep", "tiny", "schedule.imgsz=100", says=[])
    assert message.count("imgsz=100") == 1


def test_a_mistake_that_concerns_one_variant_names_it(folder: Folder) -> None:
    folder.write("sweeps/tiny.yaml", STUDY.replace("{stem: conv3x3}", "{stem: conv3x3, schedule.imgsz: 100}"))
    folder.refused("sweep", "tiny", says=["ablab: stem=conv: imgsz=100"])


def test_a_gpu_that_is_not_there(folder: Folder) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    folder.refused("sweep", "tiny", "engine.device=cuda", says=["engine.device=cuda", "no GPU", "engine.device=cpu"])


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["plan", "study=tiny", "--wyh"], "--wyh"),
        (["plan", "study=tiny", "--why", "--acept-code"], "--acept-code"),
        (["sweep", "study=tiny", "--why"], "--why"),
        (["sweep", "study=tiny", "--accept-code"], "--accept-code"),
    ],
)
def test_a_flag_that_is_none(folder: Folder, words: list[str], flag: str) -> None:
    folder.refused(*words, says=[f"'{flag}'"])
    assert folder.published() == {}
