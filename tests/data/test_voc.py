"""Pascal VOC: the pixel convention, difficult objects, names, and broken XML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablab.data.dataset import load
from ablab.errors import UserError


def edit(config: dict[str, Any], name: str, old: str, new: str) -> Path:
    file = Path(config["root"]) / "Annotations" / f"{name}.xml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return file


def test_one_based_pixels_are_the_original_convention(voc_config: dict[str, Any]) -> None:
    """The pixels 3 to 20, counted from 1, are the 18 px between the edges 2 and 20."""
    edit(voc_config, "a", "<xmin>2</xmin><ymin>3</ymin>", "<xmin>3</xmin><ymin>4</ymin>")
    assert load(voc_config, "train").samples[0].boxes[0].tolist() == [3, 4, 20, 30]
    assert load({**voc_config, "one_based": True}, "train").samples[0].boxes[0].tolist() == [2, 3, 20, 30]


def test_difficult_objects_are_crowd(voc_config: dict[str, Any]) -> None:
    edit(voc_config, "a", "<difficult>0", "<difficult>1")
    assert load(voc_config, "train").samples[0].crowd.tolist() == [True, False]


def test_names_are_taken_from_all_splits_if_not_given(voc_config: dict[str, Any]) -> None:
    edit(voc_config, "d", "<name>dog", "<name>ant")
    train = load({**voc_config, "names": None}, "train")
    assert train.names == load({**voc_config, "names": None}, "val").names == ("ant", "bird", "cat", "dog")
    assert train.samples[0].classes.tolist() == [2, 1]


def test_an_unknown_class_is_refused_with_the_nearest(voc_config: dict[str, Any]) -> None:
    edit(voc_config, "a", "<name>bird", "<name>brid")
    with pytest.raises(
        UserError, match=r"a\.xml: object 2 is of class 'brid', not in data\.names. Did you mean 'bird'"
    ):
        load(voc_config, "train")


def test_dirty_boxes_are_named_by_file_and_object(voc_config: dict[str, Any]) -> None:
    edit(voc_config, "a", "<xmin>2<", "<xmin>20<")
    edit(voc_config, "b", "<xmax>40<", "<xmax>41<")
    assert [(d.where, d.action) for d in load(voc_config, "train").dirt] == [
        ("a.xml: object 1", "dropped"),
        ("b.xml: object 1", "clipped"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<xmin>2</xmin>", "", r"<object> has no <bndbox/xmin>"),
        ("<xmin>2<", "<xmin>two<", r"<bndbox/xmin> is 'two', expected a number"),
        ("<name>cat</name>", "", "<object> has no <name>"),
        ("<width>64<", "<width>0<", "the image is said to be 0x48 px"),
        ("<width>64<", "<width>nan<", "the image is said to be nanx48 px"),
        ("<size>", "<sized>", r"not valid XML at line 1, column \d+"),
        ("</annotation>", "", "not valid XML at line 1.*cut short"),
        ("<annotation>", '<!DOCTYPE a [<!ENTITY b "c">]><annotation>', "refused, an annotation needs no document type"),
    ],
)
def test_broken_annotations_are_refused(voc_config: dict[str, Any], old: str, new: str, told: str) -> None:
    edit(voc_config, "a", old, new)
    with pytest.raises(UserError, match=rf"Annotations/a\.xml: {told}"):
        load(voc_config, "train")


def test_missing_files_are_told(voc_config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"Main/trian\.txt: no such file \(from data\.train"):
        load({**voc_config, "train": "trian"}, "train")
    listing = Path(voc_config["root"]) / "ImageSets" / "Main" / "train.txt"
    listing.write_text("a\nb\na\n")
    with pytest.raises(UserError, match="names the image a twice"):
        load(voc_config, "train")
    listing.write_text("a\nz\n")
    with pytest.raises(UserError, match=r"Annotations/z\.xml: the annotation file is missing"):
        load(voc_config, "train")
