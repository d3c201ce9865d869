"""Requests that the OpenAPI page shows, one for each kind. The tests post them."""

from typing import Any

# Stands for an id that the caller has: the tests put a real one in its place.
AN_ARTEFACT = "0198c0de-0000-7000-8000-000000000000"

SUBMISSIONS: dict[str, Any] = {
    "conversion": {
        "summary": "Turn a zip of pictures and YOLO labels into a grounding dataset",
        "value": {"spec": {"kind": "conversion", "source": AN_ARTEFACT, "name": "street"}},
    },
    "inference": {
        "summary": "Ask the demo model about a picture",
        "value": {
            "spec": {
                "kind": "inference",
                "image": AN_ARTEFACT,
                "prompt": "Detect all objects in the image. Output the bounding boxes in JSON format.",
            }
        },
    },
    "prediction": {
        "summary": "Ask about every picture of a dataset, on two workers",
        "value": {
            "spec": {
                "kind": "prediction",
                "dataset": AN_ARTEFACT,
                "preset": "ground",
                "classes": ["cat", "dog"],
                "shards": 2,
            }
        },
    },
    "training_check": {
        "summary": "See what a training would learn, before it costs time on a GPU",
        "value": {"spec": {"kind": "training_check", "dataset": AN_ARTEFACT}},
    },
    "training": {
        "summary": "Tune a model on a converted dataset",
        "value": {
            "spec": {
                "kind": "training",
                "dataset": AN_ARTEFACT,
                "model": "hub:Qwen/Qwen3-VL-2B-Instruct",
                "name": "street",
                "evaluate": "end",
            }
        },
    },
    "evaluation": {
        "summary": "Measure how well a model finds things",
        "value": {"spec": {"kind": "evaluation", "dataset": AN_ARTEFACT, "splits": ["val"]}},
    },
    "export": {
        "summary": "Make one model of what was trained, to be used anywhere",
        "value": {"spec": {"kind": "export", "model": AN_ARTEFACT, "name": "street-whole"}},
    },
    "verification": {
        "summary": "Prove that an export is the model that it was made of",
        "value": {"spec": {"kind": "verification", "export": AN_ARTEFACT, "model": AN_ARTEFACT}},
    },
    "import": {
        "summary": "Bring a model from its hub, and give it a name",
        "value": {"spec": {"kind": "import", "source": "hub:Qwen/Qwen3-VL-2B-Instruct", "name": "qwen3-vl-2b"}},
    },
    "noop": {
        "summary": "Do nothing (administrators only)",
        "value": {"spec": {"kind": "noop", "echo": "hello"}, "priority": 10},
    },
}

BATCHES: dict[str, Any] = {
    "chain": {
        "summary": "Convert a dataset, and look at one of its pictures with a question",
        "value": {
            "jobs": [
                {"name": "convert", "spec": {"kind": "conversion", "source": AN_ARTEFACT, "name": "street"}},
                {
                    "name": "look",
                    "spec": {
                        "kind": "inference",
                        "image": "ref:convert/contact_sheet",
                        "prompt": "Detect all objects in the image. Output the bounding boxes in JSON format.",
                    },
                },
            ]
        },
    },
}
