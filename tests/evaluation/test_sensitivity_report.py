from xml.etree import ElementTree

from smidgen.evaluation.sensitivity_report import markdown, page

CHOSEN = {"bytes": 1000, "bits_per_weight": 4.0, "divergence": 0.2, "sum_of_divergences": 0.3}
TABLE = {
    "model": "<b>mine</b>",
    "target_bits": 4.0,
    "group_size": 32,
    "calibration": {"rows": 3, "tokens": 1234},
    "chosen": CHOSEN,
    "uniform": {"3": {"bytes": 900, "bits_per_weight": 3.5, "divergence": 0.9}},
    "layers": [
        {"name": "model.embed_tokens", "parameters": 64, "divergence": {}, "bits": None},
        {
            "name": "model.layers.0.mlp.up_proj",
            "parameters": 1234,
            "divergence": {"3": 0.5, "4": 0.0},
            "bits": 4,
        },
        {
            "name": "model.layers.10.mlp.up_proj",
            "parameters": 32,
            "divergence": {"3": 0.1, "4": 0.0},
            "bits": 3,
        },
        {
            "name": "model.layers.2.mlp.up_proj",
            "parameters": 32,
            "divergence": {"3": 0.0, "4": 0.0},
            "bits": 3,
        },
    ],
}


def test_the_table_holds_every_figure():
    text = markdown(TABLE)
    assert "| model.layers.0.mlp.up_proj | 1,234 | 5.00e-01 | 0.00e+00 | 4 |" in text
    assert "| model.embed_tokens | 64 | — | — | kept |" in text
    assert "| all 3 bits | 3.500 | 900 | 0.9 |" in text
    assert (
        "1,234 tokens of 3 rows" in text
        and "with all layers quantised: 0.2; sum of the divergences of single layers: 0.3" in text
    )


def test_the_figure_shades_what_matters_most_and_keeps_blocks_in_order():
    made = page(TABLE)
    svg = ElementTree.fromstring(made[made.index("<svg") : made.index("</svg>") + 6])
    assert [text.text for text in svg.findall("text")][2:] == ["outside", "block 0", "block 2", "block 10"]
    cells = svg.findall("g")
    assert [cell.findtext("text") for cell in cells] == ["kept", "4", "3", "3"]
    depths = [
        float(rect.get("fill-opacity", "")) for cell in cells if (rect := cell.find("rect")) is not None
    ]
    assert depths[1] == max(depths) > depths[3] >= depths[2] == depths[0]


def test_names_are_escaped():
    assert "<b>mine</b>" not in page(TABLE)
