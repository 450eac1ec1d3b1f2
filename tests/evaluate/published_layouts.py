"""Small copies of benchmarks' data sets as they are published: names of files, columns and their types."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

TEXTS, INTS = pa.list_(pa.string()), pa.list_(pa.int32())
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TABLE = "<table><tr><td>Tea</td><td>2.50</td></tr></table>"


def picture(number=0, kind="png"):
    """The bytes of a small picture, another one for every number."""
    image = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(image).text((6, 20), f"No {number}", fill="black")
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def write(path, columns, rows):
    """A Parquet file of {column: type} with rows as lists of values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(columns)
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], pa.schema(columns.items()))
    pq.write_table(table, path, row_group_size=4)
    return path.parent


def pictured(number):
    return {"bytes": picture(number), "path": f"{number}.png"}


def docvqa(folder, count=10, shards=1):
    """Two questions that follow each other are about one page."""
    columns = {
        "questionId": pa.string(), "question": pa.string(), "question_types": TEXTS, "image": PICTURE,
        "docId": pa.int64(), "ucsf_document_id": pa.string(), "ucsf_document_page_no": pa.string(), "answers": TEXTS,
        "data_split": pa.string(),
    }  # fmt: skip
    for shard in range(shards):
        rows = [
            [str(n), f"What is the number, {n}?", ["form", "layout"][: 1 + n % 2], pictured(n // 2), n // 2, "x", "1",
             [f"No {n}", str(n)], "val"]
            for n in range(shard * count, (shard + 1) * count)
        ]  # fmt: skip
        write(folder / f"DocVQA/validation-{shard:05}-of-{shards:05}.parquet", columns, rows)


def infovqa(folder, count=10):
    columns = {
        "questionId": pa.string(), "question": pa.string(), "answers": TEXTS, "answer_type": TEXTS, "image": PICTURE,
        "image_url": pa.string(), "operation/reasoning": TEXTS, "ocr": pa.string(), "data_split": pa.string(),
    }  # fmt: skip
    rows = [
        [str(n), "How many?", [str(n)], ["single span"], pictured(n), "", ["counting"] * (n % 2), "", "val"]
        for n in range(count)
    ]
    write(folder / "InfographicVQA/validation-00000-of-00001.parquet", columns, rows)


def chartqa(folder, count=10):
    columns = {"type": pa.string(), "question": pa.string(), "answer": pa.string(), "image": PICTURE}
    rows = [[("human_test", "augmented_test")[n % 2], "What is the value?", str(n), pictured(n)] for n in range(count)]
    write(folder / "data/test-00000-of-00001-e2cd0b7a0f9eb20d.parquet", columns, rows)


def textvqa(folder, count=10):
    columns = {
        "image_id": pa.string(), "question_id": pa.int32(), "question": pa.string(), "question_tokens": TEXTS,
        "image": PICTURE, "image_width": pa.int32(), "image_height": pa.int32(), "flickr_original_url": pa.string(),
        "flickr_300k_url": pa.string(), "answers": TEXTS, "image_classes": TEXTS, "set_name": pa.string(),
        "ocr_tokens": TEXTS,
    }  # fmt: skip
    rows = [
        [
            f"{n:x}",
            n,
            "what does the SIGN say?",
            [],
            pictured(n),
            96,
            64,
            "",
            "",
            ["stop"] * 10,
            ["Sign"],
            "val",
            ["stop"],
        ]
        for n in range(count)
    ]
    write(folder / "data/validation-00000-of-00001.parquet", columns, rows)


def ocrbench(folder, count=10):
    columns = {
        "dataset": pa.string(), "question": pa.string(), "question_type": pa.string(), "answer": TEXTS,
        "image": PICTURE,
    }  # fmt: skip
    kinds = ("Regular Text Recognition", "Digit String Recognition", "Doc-oriented VQA",
             "Handwritten Mathematical Expression Recognition")  # fmt: skip
    rows = [
        ["HME100k" if n % 4 == 3 else "IIIT5K", " what is written? ", kinds[n % 4], [f"No {n}"], pictured(n)]
        for n in range(count)
    ]
    write(folder / "data/test-00000-of-00001.parquet", columns, rows)


V2 = [
    ("text recognition en", ["Tea"], "None"),
    ("cognition VQA cn", ["茶"], "None"),
    ("math QA en", ["B"], "multiple choice"),
    ("text counting en", ["12"], "regression"),
    ("table parsing en", [TABLE], "None"),
    ("chart parsing en", ["{'a': 1}"], "None"),
    ("document parsing cn", ["# 题\n字"], "None"),
    ("key information extraction en", ['{"a": "b"}'], "None"),
    ("text grounding en", ["1", "2", "30", "40"], "None"),
    ("text spotting en", [], "None"),
]


def ocrbench_v2(folder, count=10):
    columns = {
        "id": pa.int32(), "dataset_name": pa.string(), "question": pa.string(), "type": pa.string(), "answers": TEXTS,
        "image": PICTURE, "eval": pa.string(), "bbox": INTS, "bbox_list": pa.list_(INTS), "content": TEXTS,
    }  # fmt: skip
    rows = []
    for n in range(count):
        kind, answers, way = V2[n % len(V2)]
        spotted = [[0, 0, 50, 0, 50, 20, 0, 20]], ["Tea"]
        boxes, content = spotted if kind == "text spotting en" else (None, None)
        rows.append([n, "x", "Read it as HTML.", kind, answers, pictured(n), way, None, boxes, content])
    write(folder / "data/test-00000-of-00001.parquet", columns, rows)


def mtvqa(folder, count=10):
    """Two questions to a picture, written as Python writes them."""
    columns = {"image": PICTURE, "qa_pairs": pa.string(), "lang": pa.string(), "id": pa.int64()}
    pairs = [{"question": "Wie heißt das?", "answer": "Tee."}, {"question": '它\'s "was"?', "answer": "茶"}]
    rows = [[pictured(n), repr(pairs), ("DE", "KR")[n % 2], n] for n in range(count // 2)]
    write(folder / "data/test-00000-of-00001.parquet", columns, rows)


def pope(folder, count=10):
    columns = {
        "id": pa.string(), "question_id": pa.string(), "question": pa.string(), "answer": pa.string(),
        "image_source": pa.string(), "image": PICTURE, "category": pa.string(),
    }  # fmt: skip
    kinds = ("adversarial", "popular", "random")
    rows = [
        [str(n), str(n), "Is there a dog in the image?", ("yes", "no")[n % 2], "COCO", pictured(n), kinds[n % 3]]
        for n in range(count)
    ]
    write(folder / "data/test-00000-of-00001.parquet", columns, rows)


def mmstar(folder, count=10):
    """The pictures' bytes stand in the column itself."""
    meta = pa.struct([("source", pa.string()), ("split", pa.string()), ("image_path", pa.string())])
    columns = {
        "index": pa.int64(), "question": pa.string(), "image": pa.binary(), "answer": pa.string(),
        "category": pa.string(), "l2_category": pa.string(), "meta_info": meta,
    }  # fmt: skip
    kinds = (("math", "geometry"), ("math", "statistical reasoning"), ("coarse perception", "image emotion"))
    asked = "Which? Please answer yes or no.\nOptions: A: one, B: two, C: three, D: four"
    rows = [
        [n, asked, picture(n, "jpeg"), "ABCD"[n % 4], *kinds[n % 3], {"source": "x", "split": "val", "image_path": "x"}]
        for n in range(count)
    ]
    write(folder / "mmstar.parquet", columns, rows)


def realworldqa(folder, count=10):
    columns = {"image": PICTURE, "image_path": pa.string(), "question": pa.string(), "answer": pa.string()}
    rows = [
        [
            pictured(n),
            "x.webp",
            "How many cars? Please answer directly with a single word or number.",
            ("2", "A")[n % 2],
        ]
        for n in range(count)
    ]
    write(folder / "data/test-00000-of-00002.parquet", columns, rows[: count // 2])
    write(folder / "data/test-00001-of-00002.parquet", columns, rows[count // 2 :])


def ai2d(folder, count=10):
    columns = {"question": pa.string(), "options": TEXTS, "answer": pa.string(), "image": PICTURE}
    rows = [["What eats grass?", ["a cow", "a fox", "the sun", "none"], str(n % 4), pictured(n)] for n in range(count)]
    write(folder / "data/test-00000-of-00001.parquet", columns, rows)


def cord(folder, count=10):
    columns = {"image": PICTURE, "ground_truth": pa.string()}
    truth = {"menu": [{"nm": "Tea", "cnt": "1", "price": "2.50"}], "total": {"total_price": "2.50"}}
    rows = [
        [pictured(n), json.dumps({"gt_parse": truth, "meta": {"version": "2.0.0"}, "valid_line": []})]
        for n in range(count)
    ]
    write(folder / "data/test-00000-of-00001-9c204eb3f4e11791.parquet", columns, rows)


def omnidocbench(folder, count=10):
    (folder / "images").mkdir()
    pages = []
    for n in range(count):
        (folder / f"images/page {n}.jpg").write_bytes(picture(n, "jpeg"))
        found = [{"anno_id": 1, "category_type": "text_block", "order": 1, "text": f"Page number {n}", "poly": []}]
        found += [{"anno_id": 2, "category_type": "table", "order": 2, "html": TABLE}] * (n % 2)
        attributes = {"data_source": ("book", "exam_paper")[n % 2], "language": "english", "layout": "single_column"}
        info = {"page_no": n, "height": 64, "width": 96, "image_path": f"page {n}.jpg", "page_attribute": attributes}
        pages.append({"layout_dets": found, "page_info": info, "extra": {"relation": []}})
    (folder / "OmniDocBench.json").write_text(json.dumps(pages))


LAYOUTS = {f.__name__: f for f in (docvqa, infovqa, chartqa, textvqa, ocrbench, ocrbench_v2, mtvqa, pope, mmstar,
                                   realworldqa, ai2d, cord, omnidocbench)}  # fmt: skip
