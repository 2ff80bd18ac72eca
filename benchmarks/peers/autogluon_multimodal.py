"""AutoGluon's MultiModalPredictor on class folders within a time limit, then its predictions for the test folder.

    python benchmarks/peers/autogluon_multimodal.py FOLDER --weights FILE --network NAME --work W --seconds 120
    python benchmarks/peers/autogluon_multimodal.py FOLDER --weights FILE --network NAME --work W --predict

Run by benchmarks/best_in_time.py, in an environment of its own. Images of FOLDER/train are all that training sees. The
time that the imports have taken is no longer AutoGluon's.
"""

import time

BEGAN = time.time()

import argparse  # noqa: E402
import csv  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with train and test folders of class folders")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--presets", default="medium_quality")
    parser.add_argument("--predict", action="store_true")
    given = parser.parse_args()

    import pandas as pd  # after --help, which needs none of it
    from autogluon.multimodal import MultiModalPredictor

    if given.predict:
        files = sorted((given.data / "test").glob("*/*"))
        predictor = MultiModalPredictor.load(str(given.work / "predictor"))
        said = predictor.predict(pd.DataFrame({"image": [str(file) for file in files]}))
        with (given.work / "predictions.csv").open("w", newline="", encoding="utf-8") as target:
            writer = csv.writer(target, lineterminator="\n")
            writer.writerow(("path", "predicted"))
            writer.writerows(
                (file.relative_to(given.data / "test").as_posix(), label.removeprefix("class "))
                for file, label in zip(files, said, strict=True)
            )
        return
    files = sorted((given.data / "train").glob("*/*"))
    table = pd.DataFrame({"image": [str(file) for file in files], "label": [f"class {f.parent.name}" for f in files]})
    predictor = MultiModalPredictor(
        label="label",
        problem_type="binary" if table["label"].nunique() == 2 else "multiclass",
        presets=given.presets,
        path=str(given.work / "predictor"),
    )
    predictor.fit(
        table,
        time_limit=max(1, round(given.seconds - (time.time() - BEGAN))),
        seed=given.seed,
        hyperparameters={
            "model.names": ["timm_image"],
            "model.timm_image.checkpoint_name": str(checkpoint(given)),
            "env.num_gpus": 0,
        },
    )


def checkpoint(given: argparse.Namespace) -> Path:
    """Folder with the weights as AutoGluon reads them: config.json, and pytorch_model.bin without the classifier."""
    import timm
    import torch
    from safetensors.torch import load_file

    folder = given.work / given.network
    folder.mkdir(exist_ok=True)
    state = load_file(given.weights)
    torch.save({k: v for k, v in state.items() if not k.startswith("classifier.")}, folder / "pytorch_model.bin")
    trained = timm.get_pretrained_cfg(given.network).to_dict()
    features = timm.create_model(given.network).num_features
    config = {"architecture": given.network, "num_features": features, "pretrained_cfg": trained}
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return folder


if __name__ == "__main__":
    main()
