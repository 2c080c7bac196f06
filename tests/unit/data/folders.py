"""Folder layouts that real sets of images have, and the layout or the message that they give."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tests.unit.data.hostile import encode, make_picture

NFC = unicodedata.normalize("NFC", "café")
NFD = unicodedata.normalize("NFD", "café")


@dataclass(frozen=True)
class Layout:
    """A folder and the expected result.

    `files` are paths relative to the folder: a path of an image gets an image as content, a path
    that ends with `/` is an empty folder. `message` is a pattern of the expected error; without
    one, `classes` maps each class to the splits of its images ("" if to be drawn). `ignored` maps
    kinds to numbers, where they matter.
    """

    files: str
    classes: dict[str, set[str]] | None = None
    message: str = ""
    merge_subfolders: bool = False
    ignored: dict[str, int] | None = None
    refused: tuple[str, ...] = ()
    note: str = ""

    @property
    def paths(self) -> list[str]:
        """Paths in `files`, with `{a,b}` and `{0..9}` expanded."""
        return [path for word in self.files.split() for path in _expand(word.replace("%", " "))]


def _expand(word: str) -> list[str]:
    start, brace, rest = word.partition("{")
    if not brace:
        return [word]
    choices, _, end = rest.partition("}")
    first, dots, last = choices.partition("..")
    names = [str(n) for n in range(int(first), int(last) + 1)] if dots else choices.split(",")
    return [path for name in names for path in _expand(start + name + end)]


@lru_cache(maxsize=512)
def make_content(path: str, number: int) -> bytes:
    """Return a small image of the format that the extension names, or text."""
    extension = path.rpartition(".")[2].lower()
    forms = {"jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "png": "PNG"}
    forms |= {"tif": "TIFF", "webp": "WEBP", "bmp": "BMP", "photo": "JPEG"}
    form = forms.get(extension) or ("JPEG" if path.endswith("-photo") else "")
    return encode(make_picture(number, 8), form) if form else b"text, not an image"


def write_layout(root: Path, layout: Layout) -> None:
    """Create the folder `root` with the files and folders of a layout."""
    root.mkdir()
    for number, path in enumerate(layout.paths):
        target = root / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(make_content(path, number))


DRAWN = {"cat": {""}, "dog": {""}}
ALL_SPLITS = {"cat": {"train", "val", "test"}, "dog": {"train", "val", "test"}}
TRAIN_VAL = {"cat": {"train", "val"}, "dog": {"train", "val"}}

# `%` in a path stands for a space.
LAYOUTS = {
    # Class folders, and what else lies there.
    "classes": Layout("{cat,dog}/{0..2}.jpg", DRAWN, ignored={}),
    "files_that_are_not_images": Layout(
        "{cat,dog}/0.jpg README.md LICENSE labels.txt data.csv a.json net.pyc x.py n.ipynb "
        "cat/0.xml cat/0.txt cat.zip cat/clip.MOV cat/IMG_1.AAE Makefile cat/._0.jpg",
        DRAWN,
        ignored={
            ".aae": 1, ".csv": 1, ".ipynb": 1, ".json": 1, ".md": 1, ".mov": 1, ".py": 1,
            ".pyc": 1, ".txt": 2, ".xml": 1, ".zip": 1, "hidden or system file": 1,
            "without extension": 2,
        },
    ),
    "folders_that_are_no_classes": Layout(
        "{cat,dog}/0.jpg __pycache__/x.pyc .ipynb_checkpoints/0.jpg logs/run/events.out.1 "
        "__MACOSX/cat/0.jpg @eaDir/cat/SYNOPHOTO_THUMB_M.jpg .git/config cat/@eaDir/0.jpg/t.jpg "
        "unicorn/ dog/empty/",
        DRAWN,
        ignored={"hidden or system folder": 6, "folder without images": 3, ".1": 1},
    ),
    "extensions_of_every_kind": Layout(
        "cat/{A.JPG,b.jpe,c.jfif,d.JPEG} dog/{a.tif,b.PNG,c.webp,d.bmp,e-photo,f.photo,g.xyz}",
        DRAWN,
        ignored={".xyz": 1},
    ),
    "images_beside_class_folders": Layout(
        "{cat,dog}/0.jpg stray.jpg", DRAWN, refused=("stray.jpg",)
    ),
    "images_that_are_not_decoded_are_not_ignored": Layout("{cat,dog}/{0.jpg,1.psd,2.svg}", DRAWN),
    "a_class_called_logs": Layout("{birch,logs}/0.jpg", {"birch": {""}, "logs": {""}}),
    "characters_in_both_cases": Layout("{A,a}/0.jpg", {"A": {""}, "a": {""}}),
    "classes_that_differ_in_case": Layout(
        "{Cat,cat}/0.jpg", {"Cat": {""}, "cat": {""}}, note="Cat and cat .* differ only in case"
    ),
    "classes_in_two_unicode_forms": Layout(f"{NFC}/0.jpg {NFD}/0.jpg", message="look the same"),
    # Subfolders of class folders.
    "one_inner_folder": Layout("{cat,dog}/images/0.jpg", DRAWN),
    "deep_inner_folders": Layout("{cat,dog}/a/b/c/0.jpg", DRAWN),
    "images_and_subfolders": Layout("{cat,dog}/0.jpg cat/more/1.jpg", DRAWN),
    "breeds": Layout(
        "cat/{persian,siamese}/0.jpg dog/{poodle,boxer}/0.jpg",
        DRAWN,
        note="images in subfolders belong to the class folder around them: cat, dog",
    ),
    "kaggle_nesting": Layout(
        "Dataset/{0..9}/0.jpg Examples/{0..3}.jpg",
        message=r"Dataset holds only folders: 0, 1, 2, 3, 4 and 5 more.*"
        r"preprocess.source.path: \S+/Dataset; .*merge_subfolders: true",
    ),
    "kaggle_nesting_with_one_inner_folder": Layout(
        "Dataset/Dataset/{0..9}/0.jpg Examples/example/{0..3}.jpg",
        message=r"preprocess.source.path: \S+/Dataset/Dataset; ",
    ),
    "kaggle_nesting_on_purpose": Layout(
        "Dataset/{0..9}/0.jpg Examples/{0..3}.jpg",
        {"Dataset": {""}, "Examples": {""}},
        merge_subfolders=True,
        note="class folder around them: Dataset$",
    ),
    "images_and_masks": Layout(
        "{COVID,Normal}/{images,masks}/0.png", message="the same folders: images, masks.*masks"
    ),
    "splits_inside_classes": Layout(
        "{cat,dog}/{train,test}/0.jpg", message="the classes: make train/cat of cat/train"
    ),
    "folders_beside_a_data_set": Layout(
        "data/{train,val}/{cat,dog}/0.jpg assets/{teaser,b}.png",
        message=r"If these are the splits, set preprocess.source.path: \S+/data;",
    ),
    # A folder around everything.
    "wrapped_classes": Layout(
        "dataset/{cat,dog}/0.jpg README.md", DRAWN, note=r"are in (\S+/)?dataset\b.*, the only"
    ),
    "wrapped_twice": Layout("a/b/{cat,dog}/0.jpg", DRAWN, note=r"are in (\S+/)?a/b\b"),
    "wrapped_splits": Layout(
        "flowers/{train,val}/{cat,dog}/0.jpg __MACOSX/x", TRAIN_VAL, note="flowers"
    ),
    "wrapped_with_a_stray_image": Layout(
        "dataset/{cat,dog}/0.jpg cover.jpg", DRAWN, refused=("cover.jpg",), note="dataset"
    ),
    # Split folders.
    "splits": Layout("{train,val,test}/{cat,dog}/0.jpg", ALL_SPLITS),
    "splits_of_roboflow": Layout(
        "{train,valid,test}/{cat,dog}/0.jpg README.dataset.txt README.roboflow.txt", ALL_SPLITS
    ),
    "splits_in_any_case": Layout("{Train,VALIDATION,TEST}/{cat,dog}/0.jpg", ALL_SPLITS),
    "splits_in_long": Layout("{training,validation,Testing}/{cat,dog}/0.jpg", ALL_SPLITS),
    "splits_called_sets": Layout(
        "{training_set/training_set,test_set/test_set}/{cat,dog}/0.jpg",
        {"cat": {"train", "test"}, "dog": {"train", "test"}},
    ),
    "train_alone": Layout("train/{cat,dog}/0.jpg", {"cat": {"train"}, "dog": {"train"}}),
    "cloned_repository": Layout(
        "{train,val}/{cat,dog}/0.jpg __pycache__/a.pyc logs/out.txt train.py model.py",
        TRAIN_VAL,
        ignored={".py": 2, ".txt": 1, "folder without images": 1, "hidden or system folder": 1},
    ),
    "splits_with_a_label_folder": Layout(
        "{train,val}/{cat,dog}/{0.jpg,0.xml} annotations/0.json", TRAIN_VAL
    ),
    "stray_image_in_a_split": Layout(
        "{train,val}/{cat,dog}/0.jpg train/a.jpg", TRAIN_VAL, refused=("train/a.jpg",)
    ),
    "class_missing_from_val": Layout(
        "train/{cat,dog}/0.jpg val/cat/0.jpg val/dog/", {"cat": {"train", "val"}, "dog": {"train"}}
    ),
    "class_missing_from_train": Layout(
        "train/{cat,dog}/0.jpg val/{cat,dogs}/0.jpg",
        message=r"val has class folders that \S+/train lacks: dogs \(is dogs the class dog\?\); "
        "train has cat, dog",
    ),
    "unlabelled_test_folder": Layout(
        "train/{cat,dog}/0.jpg test/unknown/{0..3}.jpg", message="train lacks: unknown; train has"
    ),
    "case_differs_between_splits": Layout(
        "train/{Cat,dog}/0.jpg val/{cat,dog}/0.jpg",
        message="val/cat and train/Cat differ only in case",
    ),
    "unicode_differs_between_splits": Layout(
        f"train/{NFC}/0.jpg train/dog/0.jpg test/{NFD}/0.jpg",
        message=r"look the same but are written differently \('cafe\\u0301' and 'caf\\xe9'",
    ),
    "split_of_images_only": Layout(
        "train/{cat,dog}/0.jpg test/{0..3}.jpg",
        message="test is a split and holds 4 images but no class folders.*move it out",
    ),
    "table_of_labels": Layout(
        "train/{0..3}.jpg test/{4..6}.jpg train.csv",
        message="train is a split and holds 4 images but no class.*kind: csv with table: train.csv",
    ),
    "table_of_labels_and_folders_of_images": Layout(
        "train_images/{0..3}.png test_images/{4..6}.png train.csv",
        message="train_images, test_images look like splits, not like classes.*kind: csv",
    ),
    "detection_set": Layout(
        "images/{train,val}/{0..3}.jpg labels/{train,val}/{0..3}.txt",
        message="train is a split and holds 4 images but no class folders",
    ),
    "no_train": Layout("{val,test}/{cat,dog}/0.jpg", message="which are splits, and no train"),
    "two_names_of_a_split": Layout(
        "{train,valid,validation}/{cat,dog}/0.jpg", message="valid and validation both mean"
    ),
    "splits_with_affixes": Layout(
        "seg_train/{forest,sea}/0.jpg seg_test/{forest,sea}/0.jpg seg_pred/0.jpg",
        message="seg_train, seg_test look like splits",
    ),
    "splits_of_image_translation": Layout(
        "{trainA,trainB,testA,testB}/{0..3}.jpg", message="trainB, testA, testB look like splits"
    ),
    "splits_in_camel_case": Layout(
        "{TrainImages,TestImages}/{0..3}.jpg", message="TrainImages, TestImages look like splits"
    ),
    # Folders that hold parts of one set.
    "pictures_and_masks": Layout(
        "{images,masks}/{0..3}.png", message="images, masks look like parts of one set of pictures"
    ),
    "pictures_and_masks_in_splits": Layout(
        "{train,val}/{Images,mask}/{0..3}.png", message="train: Images, mask look like parts"
    ),
    "numbered_parts": Layout(
        "scans_images_part_{1,2}/{0..3}.jpg metadata.csv",
        message=r"look like parts .*use kind: csv with table: metadata.csv\. If they are classes",
    ),
    "numbered_parts_with_an_inner_folder": Layout(
        "images_{1..3}/images/{0..3}.jpg", message="images_1, images_2, images_3 look like parts"
    ),
    "numbered_parts_of_different_classes": Layout(
        "images_1/{cat,dog}/0.jpg images_2/{bird,fish}/0.jpg", message="images_1, images_2 look"
    ),
    "pictures_and_masks_by_class": Layout(
        "{images,masks}/{cat,dog}/0.png", message="the folders images, masks hold the same folders"
    ),
    "class_names_with_words_for_pictures": Layout(
        "{cat_images,dog_images}/0.jpg", {"cat_images": {""}, "dog_images": {""}}
    ),
    "classes_with_and_without_masks": Layout(
        "{mask,no%mask}/0.jpg", {"mask": {""}, "no mask": {""}}
    ),
    "numbered_classes": Layout("{part_1,part_2}/0.jpg", {"part_1": {""}, "part_2": {""}}),
    "one_split_and_others": Layout(
        "{train,dev}/{cat,dog}/0.jpg", message="For train as a split, move everything"
    ),
    "test_alone": Layout("Test/{cat,dog}/0.jpg", message="holds Test, which is a split, and no"),
    "a_table_in_each_split": Layout(
        "{train,valid,test}/{0..3}.jpg {train,valid,test}/_annotations.csv",
        message="train is a split and holds 4 images.*with table: train/_annotations.csv",
    ),
    "class_called_train": Layout(
        "{train,bus,car}/{0..3}.jpg",
        message="train names a split, but bus, car beside it hold images too.* such as train_class",
    ),
    "unlabelled_test_beside_classes": Layout(
        "{bus,car,test}/{0..3}.jpg", message="test names a split, but bus, car"
    ),
    "class_beside_splits": Layout(
        "{train,val}/{cat,dog}/0.jpg bird/0.jpg",
        message="train, val are names of splits, but bird beside them holds images too.*move every",
    ),
    "copy_beside_splits": Layout(
        "{train,test}/{cat,dog}/0.jpg chest/{train,test}/{cat,dog}/0.jpg",
        message=r"or set preprocess.source.path: \S+/chest, which holds splits",
    ),
    # Nothing to use.
    "empty": Layout("", message="holds no images. Give the folder"),
    "images_only": Layout("{0..3}.jpg", message="4 images and no folder with images"),
    "images_and_a_table": Layout(
        "{0..3}.jpg labels.csv", message="kind: csv with table: labels.csv"
    ),
    "images_in_one_folder_with_a_table": Layout(
        "train/{0..3}.jpg train/_classes.csv", message="with table: train/_classes.csv"
    ),
    "arrays": Layout("{cat,dog}/{0..3}.npy", message=r"it holds 8 .npy \(cat/0.npy, cat/1.npy, .."),
    "archive_inside": Layout("photos.zip", message="[Gg]ive .*photos.zip"),
    "parquet_files": Layout(
        "data/{train,test}-00000-of-00001.parquet README.md", message="give kind: parquet"
    ),
    "archives_inside": Layout("{train,test}.zip", message="Unpack "),
}  # fmt: skip
