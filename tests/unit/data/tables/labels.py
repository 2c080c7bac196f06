"""Tables with every kind of columns and labels."""

from __future__ import annotations

from tests.unit.data.tables.cases import CATS, PLAIN, Case, json_lines

COLUMNS = {
    "other case and blanks": Case(" PATH , Label\n cat/1.jpg , cat \n", {"cat/1.jpg": "cat"}),
    "exact name first": Case("Label,label,path\na,b,cat/1.jpg\n", {"cat/1.jpg": "b"}),
    "one column for two keys": Case(
        PLAIN, message="path_column and label_column are both", settings={"label_column": "path"}
    ),
    "two names without case": Case("Label,LABEL,path\na,b,cat/1.jpg\n", message="'Label', 'LABEL'"),
    "one name twice": Case("label,label,path\na,b,cat/1.jpg\n", message="several columns"),
    "likely columns": Case(
        "no,file_name,class\n1,cat/1.jpg,cat\n",
        message="no, file_name, class. Perhaps.*path_column: file_name, label_column: class",
    ),
    "columns of HAM10000": Case(
        "lesion_id,image_id,dx\nh,ISIC_1,nv\n",
        message="path_column: image_id, label_column: dx",
    ),
    "a hundred columns": Case(
        ",".join(f"c{n}" for n in range(100)) + "\n" + "," * 99 + "\n", message="c19 and 80 more"
    ),
    "splits by other names": Case(
        "path,label,set\ncat/1.jpg,a,Training\ncat/2.JPG,a,VALID\ndog/1.jpg,b,test \n",
        {"cat/1.jpg": "a", "cat/2.JPG": "a", "dog/1.jpg": "b"},
        settings={"split_column": "set"},
    ),
    "unknown split": Case(
        "path,label,set\ncat/1.jpg,a,7\n", message="'7'", settings={"split_column": "set"}
    ),
}

HOT = {"label_columns": ["cat", "dog"]}
LABELS = {
    "multi-hot": Case(
        "path,cat,dog\ncat/1.jpg,1,0\ndog/1.jpg,0,1\n",
        {"cat/1.jpg": "cat", "dog/1.jpg": "dog"},
        settings=HOT,
    ),
    "multi-hot reals": Case(
        "path,Cat,dog\ncat/1.jpg,1.0,0.0\ndog/1.jpg,0.0,1.0\n",
        {"cat/1.jpg": "Cat", "dog/1.jpg": "dog"},
        settings=HOT,
    ),
    "multi-hot words and blanks": Case(
        "path,cat,dog\ncat/1.jpg,True,\ndog/1.jpg,FALSE,true\n",
        {"cat/1.jpg": "cat", "dog/1.jpg": "dog"},
        settings=HOT,
    ),
    "multi-hot of all columns": Case(
        ",path,cat,dog\n7,cat/1.jpg,1,0\n8,dog/1.jpg,0,1\n",
        {"cat/1.jpg": "cat", "dog/1.jpg": "dog"},
        settings={"label_columns": "auto"},
    ),
    "multi-hot in JSON": Case(
        json_lines({"path": "cat/1.jpg", "cat": True, "dog": False}),
        {"cat/1.jpg": "cat"},
        table="labels.jsonl",
        settings=HOT,
    ),
    "multi-hot with decimal commas": Case(
        "path;a;b\ncat/1.jpg;1,00;0,00\ndog/1.jpg;0,00;1,00\n",
        {"cat/1.jpg": "a", "dog/1.jpg": "b"},
        settings={"label_columns": "auto"},
    ),
    "multi-hot, one name twice": Case(
        "path,a,a,b\ncat/1.jpg,1,0,0\ndog/1.jpg,0,0,1\n",
        message="several columns are called 'a'",
        settings={"label_columns": "auto"},
    ),
    "multi-hot, other columns": Case(
        "path,cat,dog,age\ncat/1.jpg,1,0,31\n",
        message="'age' of label_columns holds 31 .row 2; 1 rows",
        settings={"label_columns": "auto"},
    ),
    "multi-hot, uncertain": Case(
        "path,cat,dog\ncat/1.jpg,1,-1\n", message="'dog' of label_columns holds -1", settings=HOT
    ),
    "multi-hot, not exactly one": Case(
        "path,cat,dog\ncat/1.jpg,1,0\ndog/1.jpg,0,1\ncat/2.JPG,1,1\nimg/00012.png,0,0\n",
        {"cat/1.jpg": "cat", "dog/1.jpg": "dog"},
        refused={
            "cat/2.JPG": "several labels: row 4: cat, dog",
            "img/00012.png": "no label: row 5",
        },
        settings=HOT,
    ),
    "multi-label": Case(
        "path,cat,dog\ncat/1.jpg,1,0\ncat/2.JPG,1,1\nimg/00012.png,1,1\n",
        message=r"2 of 3 rows cannot be used.*\s.*2 several labels: cat/2.JPG \(row 3: cat, dog\)",
        settings=HOT,
    ),
    "multi-hot without label_columns": Case(
        "path,cat,dog\ncat/1.jpg,1,0\ndog/1.jpg,0,1\n", message=r"label_columns: \[cat, dog\]"
    ),
    "missing label column": Case(
        "path,cat\ncat/1.jpg,1\n", message=r"label_columns\[1\] is 'dog'", settings=HOT
    ),
    "numbers as written": Case(
        "path,label\ncat/1.jpg,10\ncat/2.JPG,9\ndog/1.jpg,9\n",
        {"cat/1.jpg": "10", "cat/2.JPG": "9", "dog/1.jpg": "9"},
    ),
    "one number in two spellings": Case(
        "path,label\ncat/1.jpg,1\ncat/2.JPG,1.0\n", message="'1' and '1.0'"
    ),
    "a number too long to convert": Case(
        f"path,label\ncat/1.jpg,{'9' * 5000}\n", {"cat/1.jpg": "9" * 5000}
    ),
    "one number with a zero": Case(
        "path,label\ncat/1.jpg,1\ncat/2.JPG,01\n", message="'01' and '1'"
    ),
    "versions": Case(
        "path,label\ncat/1.jpg,1.1\ncat/2.JPG,1.10\n", {"cat/1.jpg": "1.1", "cat/2.JPG": "1.10"}
    ),
    "two cases": Case(
        "path,label\ncat/1.jpg,Cat\ncat/2.JPG,cat\ndog/1.jpg,dog\n", message="'Cat' and 'cat'"
    ),
    "surrounding blanks": Case(
        "path,label\ncat/1.jpg,cat \ncat/2.JPG,cat\n", {"cat/1.jpg": "cat", "cat/2.JPG": "cat"}
    ),
    "two blanks within": Case(
        "path,label\ncat/1.jpg,big cat\ncat/2.JPG,big  cat\n", message="'big  cat' and 'big cat'"
    ),
    "two compositions": Case(
        "path,label\ncat/1.jpg,é\ncat/2.JPG,e\u0301\n", message="several spellings"
    ),
    "letters": Case("path,label\ncat/1.jpg,a\ncat/2.JPG,A\n", {"cat/1.jpg": "a", "cat/2.JPG": "A"}),
    "NA is a label": Case(
        "path,label\ncat/1.jpg,NA\ncat/2.JPG,null\n", {"cat/1.jpg": "NA", "cat/2.JPG": "null"}
    ),
    "no label, no path": Case(
        "path,label\ncat/1.jpg,cat\ncat/2.JPG,cat\n\ndog/1.jpg, \n,dog\n",
        {"cat/1.jpg": "cat", "cat/2.JPG": "cat"},
        refused={"dog/1.jpg": "no label: row 5", "row 6": "no path: "},
    ),
    "hardly a label": Case(
        "path,label\ncat/1.jpg,\ncat/2.JPG,cat\ndog/1.jpg,\n",
        message=r"2 no label: cat/1.jpg \(row 2\), dog/1.jpg",
    ),
    "repeated rows": Case(
        "path,label\ncat/1.jpg,cat\n./cat/1.jpg,cat\ncat\\1.jpg,cat\ncat/1,cat\n",
        {"cat/1.jpg": "cat"},
    ),
    "two labels": Case(
        PLAIN + "img/00012.png,cat\nimg/00012,dog\n",
        CATS,
        refused={"img/00012.png": "two labels: listed as cat, dog"},
    ),
    "two splits": Case(
        "path,label,set\ncat/1.jpg,cat,train\ncat/1.jpg,cat,test\ncat/2.JPG,cat,\ndog/1.jpg,dog,\n",
        {"cat/2.JPG": "cat", "dog/1.jpg": "dog"},
        refused={"cat/1.jpg": "two splits: listed as test, train"},
        settings={"split_column": "set"},
    ),
    "boxes of several classes": Case(
        "path,label\ncat/1.jpg,cat\ncat/1.jpg,dog\ndog/1.jpg,dog\n",
        message="2 two labels: cat/1.jpg",
    ),
}
