"""Parts of the user's own that do not fit or fail: refused before training, or one failed row among whole ones."""

from __future__ import annotations

import pytest
from working_folder import SCENES, STUDY, TINY, Folder

PARTS = '''
from torch import nn
from ablab.models.heads.anchor import AnchorHead


class WrongStrides(nn.Module):
    """A neck that says its maps are half as large as they are."""

    def __init__(self, in_channels, in_strides):
        super().__init__()
        self.out_channels, self.out_strides = in_channels, [2 * stride for stride in in_strides]

    def forward(self, maps):
        return maps


class TwoLevels(WrongStrides):
    """A neck that drops the coarsest map."""

    def __init__(self, in_channels, in_strides):
        super().__init__(in_channels, in_strides)
        self.out_channels, self.out_strides = in_channels[:2], in_strides[:2]

    def forward(self, maps):
        return maps[:2]


class Silent(WrongStrides):
    """A neck that does not say what it gives."""

    def __init__(self, in_channels, in_strides):
        nn.Module.__init__(self)


class BadDecode(AnchorHead):
    def decode(self, raw):
        raise RuntimeError("no boxes today")


class FailsLate(AnchorHead):
    """Fine at the size of the smoke test and on noise, not in training at 96 px."""

    def loss(self, raw, targets, progress):
        if raw[0].shape[2] == 12:
            raise RuntimeError("too large a map")
        return super().loss(raw, targets, progress)


'''
ANCHOR = """
_target_: {module}.{name}
classes: ${{model.classes}}
anchors: [[[10, 13]], [[30, 61]], [[116, 90]]]
anchor_t: 4.0
box: 0.05
obj: 0.25
cls: 0.1
balance: [4.0, 1.0, 0.4]
"""


@pytest.fixture
def parts(folder: Folder, request: pytest.FixtureRequest) -> str:
    """A module of the user's in the working folder; every test its own name, since Python keeps what it imported."""
    name = f"parts_{abs(hash(request.node.nodeid))}"
    folder.write(f"{name}.py", PARTS)
    return name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["neck=mine"], ["head AnchorHead does not fit neck TwoLevels", "strides [8, 16]"]),
        (["head.anchors=[[[9,9]],[[9,9]]]"], ["head AnchorHead does not fit neck PAN", "anchors for 2", "[8, 16, 32]"]),
        (["backbone.channels=[8,16]"], ["backbone.channels and counts were expected", "one entry for each stage"]),
        (["neck.channels=[8,8]"], ["neck PAN does not fit backbone CSPDarknet", "channels for 2 levels"]),
        (["neck._target_=nowhere.Neck"], ["neck._target_", "'nowhere.Neck'", "No module named 'nowhere'"]),
        (["neck._target_=ablab.models.necks.pan.PANN"], ["'PANN' is no Module", "Did you mean 'PAN'?"]),
        (["neck._target_=os.path.join"], ["neck._target_", "'join' is no Module"]),
        (["neck._target_=PAN"], ["neck._target_", "'PAN'", "module.Class was expected"]),
    ],
)
def test_parts_that_do_not_fit_are_both_named_before_training(
    folder: Folder, parts: str, words: list[str], says: list[str]
) -> None:
    folder.write("conf/neck/mine.yaml", f"_target_: {parts}.TwoLevels\n")
    folder.refused("sweep", "tiny", *words, says=says)


def test_a_mistake_is_told_once_and_before_the_images_are_read(folder: Folder) -> None:
    result = folder.run("train", *TINY, *SCENES, "schedule.imgsz=72", "engine=inline")
    assert result.err.count("not a multiple of 32") == 1
    assert result.message.startswith("ablab: ")
    assert "check every image" not in result.err


@pytest.mark.parametrize(
    ("neck", "says"),
    [
        ("WrongStrides", ["neck WrongStrides", "out_strides [16, 32, 64]", "(32, 8, 8)", "gives [(32, 16, 16)"]),
        ("Silent", ["neck Silent", "out_channels and out_strides"]),
    ],
)
def test_a_part_that_misstates_its_maps(folder: Folder, parts: str, neck: str, says: list[str]) -> None:
    folder.write("conf/neck/mine.yaml", f"_target_: {parts}.{neck}\n")
    folder.refused("sweep", "tiny", "neck=mine", says=says)


def test_a_variant_that_does_not_fit_refuses_the_others_too(folder: Folder, parts: str) -> None:
    folder.write("conf/neck/mine.yaml", f"_target_: {parts}.TwoLevels\n")
    folder.write("sweeps/tiny.yaml", STUDY.replace("{stem: conv3x3}", "{stem: conv3x3, neck: mine}"))
    folder.refused("sweep", "tiny", says=["stem=conv: head AnchorHead does not fit neck TwoLevels"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:\n", ["broken_syntax.py", "not valid Python", "line 1"]),
        ("raise NameError('nothing of that name')\n", ["neck._target_", "NameError: nothing of that name"]),
        ("import no_such_library\n", ["neck._target_", "No module named 'no_such_library'"]),
    ],
)
def test_a_module_that_cannot_be_imported(folder: Folder, text: str, says: list[str]) -> None:
    name = "broken_" + ("syntax" if "def" in text else "name" if "NameError" in text else "import")
    folder.write(f"{name}.py", text)
    folder.refused("sweep", "tiny", f"neck._target_={name}.Neck", says=says)


@pytest.mark.parametrize(
    ("head", "more", "reason"),
    [
        ("BadDecode", "", "RuntimeError: no boxes today"),
        ("FailsLate", ", schedule.imgsz: 96", "RuntimeError: too large a map"),
    ],
)
def test_a_part_that_fails_is_a_failed_row_and_the_others_complete(
    folder: Folder, parts: str, head: str, more: str, reason: str
) -> None:
    folder.write("conf/head/mine.yaml", ANCHOR.format(module=parts, name=head))
    folder.write("sweeps/tiny.yaml", STUDY.replace("{stem: conv3x3}", f"{{stem: conv3x3, head: mine{more}}}"))
    result = folder.run("sweep", "tiny")
    assert result.code == 1
    rows = {line.split("|")[1].strip(): line for line in result.out.splitlines() if line.startswith("|")}
    whole, failed = rows["00"], rows["01"]
    assert "failed" not in whole
    assert "0 of 1" in failed
    assert reason in failed
    assert folder.trainings() == 1
    assert reason in result.err
