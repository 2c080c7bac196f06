"""Tables with every kind of paths and ids."""

from __future__ import annotations

from tests.unit.data.tables.cases import BY_ID, CATS, IDS, PLAIN, Case, workbook

PATHS = {
    "ids": Case("id,label\n00012,cat\n00013,dog\n", IDS, settings=BY_ID),
    "ids with folders": Case("path,label\nimg/00012,cat\nimg/00013,dog\n", IDS),
    "ids beside the table": Case(
        "path,label\ncat/1,cat\nv1.5/img.1,dog\n", {"cat/1.jpg": "cat", "v1.5/img.1.jpg": "dog"}
    ),
    "numbers with a decimal": Case(
        "id,label\n1.0,cat\n2.0,dog\nv1.0,x\n",
        {"cat/1.jpg": "cat", "cat/2.JPG": "dog"},
        refused={"cat/v1.0": "unreadable"},
        settings={"image_folder": "cat", "path_column": "id"},
    ),
    "ids in several folders": Case(
        "path,label\nx1,cat\nx2,dog\n",
        {"part1/x1.jpg": "cat", "part2/x2.jpg": "dog"},
        settings={"image_folder": ["part1", "part2"]},
    ),
    "id in two folders": Case(
        "path,label\n1,cat\n",
        message="fit the path '1': cat/1.jpg, dog/1.jpg",
        settings={"image_folder": ["cat", "dog"]},
    ),
    "ambiguous id": Case(
        "path,label\n1,cat\n",
        message="fit the path 'twice/1': twice/1.jpg, twice/1.png",
        settings={"image_folder": "twice"},
    ),
    "name instead of the ambiguous id": Case(
        "path,label\n1.png,cat\n", {"twice/1.png": "cat"}, settings={"image_folder": "twice"}
    ),
    "extension in another case": Case(
        "path,label\ncat/1.JPG,cat\ncat/2.jpg,cat\n", {"cat/1.jpg": "cat", "cat/2.JPG": "cat"}
    ),
    "lost zeros": Case(
        "id,label\n12,cat\n00013,dog\n",
        message=r"1 of 2 ids lost leading zeros: 12 \(row 2; there is img/00012.png\).*as text",
        settings=BY_ID,
    ),
    "lost zeros in Excel": Case(
        workbook(["id", "label"], [12, "cat"]),
        message="lost leading zeros",
        table="labels.xlsx",
        settings=BY_ID,
    ),
    "backslashes": Case(
        "path,label\ncat\\1.jpg,cat\n.\\dog\\1.jpg,dog\n", {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}
    ),
    "dots and slashes": Case(
        "path,label\n././cat//1.jpg,cat\ndog/./1.jpg,dog\n",
        {"cat/1.jpg": "cat", "dog/1.jpg": "dog"},
    ),
    "blanks in names": Case("path,label\nimg/a b.jpg,cat\n", {"img/a b.jpg": "cat"}),
    "percent-encoded names": Case(
        "path,label\nimg/a%20b.jpg,cat\nimg/%C3%A9.jpg,dog\n",
        {"img/a b.jpg": "cat", "img/é.jpg": "dog"},
    ),
    "decomposed accents": Case(
        "path,label\nimg/e\u0301.JPG,cat\nimg/e\u0301,cat\n", {"img/é.jpg": "cat"}
    ),
    "absolute paths of Linux": Case(
        "path,label\n/kaggle/input/x/cat/1.jpg,cat\n",
        {"cat/1.jpg": "cat"},
        settings={"path_prefix": "/kaggle/input/x/"},
    ),
    "absolute paths of Windows": Case(
        "path,label\nC:\\data\\x\\1.jpg,cat\n",
        {"cat/1.jpg": "cat"},
        settings={"path_prefix": "C:\\data\\x", "image_folder": "cat"},
    ),
    "prefix of a longer name": Case(
        "path,label\ncatalogue/1.jpg,cat\n",
        message="no path begins with path_prefix .cat.*catalogue/1.jpg",
        settings={"path_prefix": "cat"},
    ),
    "advice for absolute paths": Case(
        "path,label\n/kaggle/input/x/cat/1.jpg,cat\n/kaggle/input/x/cat/2.JPG,cat\n",
        message="2 of 2 rows lead to no file.*row 2: /kaggle/input/x/cat/1.jpg -> cat/1.jpg.*"
        "set path_prefix: /kaggle/input/x: with that 2 of the first 2",
    ),
    "advice for a folder": Case(
        "id,label\n00012,cat\n00013,dog\n",
        message="set image_folder: img: with that 2",
        settings={"path_column": "id"},
    ),
    "advice for a prefix and a folder": Case(
        "path,label\nD:\\x\\images\\00012,cat\n",
        message="set path_prefix: D:/x/images and image_folder: img",
    ),
    "advice for several folders": Case(
        "path,label\nx1,cat\nx2,dog\n", message=r"image_folder: \[part1, part2\]: with that 2"
    ),
    "advice for a wrong folder": Case(
        "path,label\ncat/1.jpg,cat\n",
        message="set image_folder: null",
        settings={"image_folder": "img"},
    ),
    "folders in capitals": Case(
        "path,label\nCat/1.jpg,cat\nCat/2.JPG,cat\nDog/1.jpg,dog\n",
        message=r"Cat/1.jpg -> cat/1.jpg \(capitals differ\)(?!.*preprocess.source)",
    ),
    "no advice that helps few rows": Case(
        "path,label\nx1,cat\nx8,dog\nx9,dog\n", message="no file|-> (?!.*preprocess.source)"
    ),
    "nearest names": Case(
        "path,label\nkat/1.jpg,cat\ncat/2.jpeg,cat\ndog/1.jpg,dog\n",
        message=r"row 2: kat/1.jpg -> cat/1.jpg\s+row 3: cat/2.jpeg -> cat/2.JPG",
    ),
    "some paths without a file": Case(
        PLAIN + "nowhere.jpg,cat\n../x.jpg,cat\n/etc/passwd,cat\n",
        CATS,
        refused={"nowhere.jpg": "unreadable", "../x.jpg": "outside", "/etc/passwd": "outside"},
    ),
    "upwards through the folder": Case(
        "id,label\n00012,cat\n../../x.jpg,cat\n",
        {"img/00012.png": "cat"},
        refused={"img/../../x.jpg": "outside"},
        settings=BY_ID,
    ),
    "paths that are no text": Case("path,label\nx\x1b[31m.jpg,cat\n", message=r"row 2: x\\x1b"),
}
