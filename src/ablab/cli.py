"""The command line: `ablab VERB [key=value ...]`.

Exit codes: 0 done, 1 some variants failed, 2 the user's mistake, 130 interrupted.
Imports of anything heavy (torch, MLflow) happen inside the verb that needs them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ablab.config import Override, compose, flatten, groups, parse, yaml_names
from ablab.config.multirun import FLAGS, multirun
from ablab.errors import UserError, nearest

OPTIONS = {"plan": ("--why", "--accept-code"), "train": FLAGS, "profile": FLAGS, "data": ("--augmented",)}
DONE, SOME_FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if os.getcwd() not in sys.path:  # a `_target_` may name a class in the user's own module
        sys.path.insert(0, os.getcwd())
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(_help())
            return DONE
        verb, *rest = words
        if verb not in VERBS:
            raise UserError(f"unknown verb '{verb}'. {nearest(verb, VERBS)}")
        if "-h" in rest or "--help" in rest:
            print(f"ablab {verb}: {VERBS[verb].__doc__}\n\n{_choices()}")
            return DONE
        for word in rest:
            if word.startswith("-") and word not in OPTIONS.get(verb, ()):
                told = nearest(word, OPTIONS.get(verb, ())) if verb in OPTIONS else "It takes key=value only."
                raise UserError(f"ablab {verb}: no such option '{word}'. {told}")
        return VERBS[verb](rest)
    except UserError as error:
        print(f"ablab: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print(
            "\nablab: interrupted. What was finished is kept; the same command goes on from there.",
            file=sys.stderr,
        )
        return INTERRUPTED
    except BrokenPipeError:  # `ablab config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:  # a disk that is full or read-only, a file where a folder should be
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"ablab: {what}. What was finished is kept; mend it and give the same command again", file=sys.stderr)
        return MISTAKE


# ---------------------------------------------------------------------------------------------- verbs


def plan(words: list[str]) -> int:
    """What a sweep would do and take, without doing it: `ablab plan study=NAME [--why] [key=value ...]`.

    --why says for every stage that would run what changed since its like ran. --accept-code keeps the results that
    differ in code alone, after a refactoring that changes no number, and writes that into their records.
    """
    from ablab.planning import tell

    flags = {word for word in words if word in ("--why", "--accept-code")}
    study, asked = _study_argument([word for word in words if word not in flags])
    tell(study, asked, explain="--why" in flags, accept="--accept-code" in flags)
    return DONE


def sweep(words: list[str]) -> int:
    """Run a study and write its table: `ablab sweep study=NAME [key=value ...]`."""
    from ablab.driver import plan_study, report_on, reports_folder
    from ablab.sweep import config_of, run

    study, asked = _study_argument(words)
    compiled = plan_study(study, asked)
    config = config_of(compiled)
    reports_folder(config, study)  # told now if it cannot be written, not after the work
    outcome, _ = run(compiled, lambda: plan_study(study, asked))
    table = report_on(config, study)
    print(table.read_text())
    counts = f"{outcome.ran} stages ran, {outcome.cached} were in the store"
    print(f"{counts}. Table: {_shown(table)}", file=sys.stderr)
    return SOME_FAILED if outcome.failures else DONE


def status(words: list[str]) -> int:
    """Where the newest sweep of a store stands, running or dead: `ablab status [study=NAME] [store=URL]`."""
    from ablab.status import status

    return status(words)


def train(words: list[str]) -> int:
    """Train and evaluate one configuration: `ablab train model=NAME data=NAME [key=value ...]`.

    With --multirun (-m) one for each combination, in Hydra's grammar: `ablab train -m stem=focus,conv3x3 seed=0,1`.
    """
    if set(FLAGS) & set(words):
        return multirun("train", words, lambda job: _train_one(job, one_of_many=True))
    return _train_one(words)


def _train_one(words: list[str], one_of_many: bool = False) -> int:
    from ablab.console import table
    from ablab.driver import plan_training
    from ablab.study.phases import refuse_lonely_patience
    from ablab.sweep import run, store_of

    compiled = plan_training(parse(words))
    if one_of_many:
        refuse_lonely_patience("train --multirun", compiled.replicates[0].config)
    outcome, record = run(compiled, lambda: plan_training(parse(words)))
    stages = record["variants"][0]["replicates"][0]["stages"]
    trained = [stage for stage in stages if stage["kind"] == "train"]
    if trained:
        store = store_of(compiled)
        for line in _how_it_went(trained):
            print(line, file=sys.stderr)
        print(f"weights: {_shown(store.checked(trained[-1]['fingerprint']) / 'weights.safetensors')}", file=sys.stderr)
        last = trained[-1]["config"]["phase"]["imgsz"]  # mAP at another size is not comparable
        looked = [s for s in trained if s["numbers"]["best_epoch"] and s["config"]["phase"]["imgsz"] == last]
        if looked:
            best = max(looked, key=lambda stage: stage["numbers"]["best_map"])
            file, found = store.checked(best["fingerprint"]) / "best.safetensors", best["numbers"]
            epoch = best["config"]["phase"]["start_epoch"] + found["best_epoch"]
            told = f"of epoch {epoch}, mAP {_percent(found['best_map'])} on val"
            print(f"best weights ({told}): {_shown(file)}", file=sys.stderr)
    found = [stage["numbers"] for stage in stages if stage["kind"] == "evaluate"]
    print(table(["input", "mAP50", "mAP", "mAP75"], [[n["imgsz"], *map(_percent, _family(n))] for n in found]))
    return SOME_FAILED if outcome.failures else DONE


def _how_it_went(trained: list[dict[str, Any]]) -> Iterator[str]:
    """A line for a training that diverged or stopped early."""
    for stage in trained:
        config, numbers = stage["config"], stage["numbers"]
        if numbers["diverged"] and numbers["epochs"]:  # else it is the part before that diverged
            keys = [key for key in config["optim"] if key == "lr" or (key.endswith("_lr") and key != "final_lr")]
            rates = " and ".join(f"optim.{key}={config['optim'][key]:g}" for key in keys)
            told = f"diverged in epoch {numbers['epochs']}, the weights are those before"
            yield f"{stage['label']}: {told}; lower rates than {rates} may do"
        if numbers["stopped_early"]:
            found = f"no better mAP than epoch {numbers['best_epoch']}'s"
            asked = f"{numbers['epochs']} of {config['phase']['epochs']} epochs"
            yield f"{stage['label']}: stopped early after {asked}: {found}"


def evaluate(words: list[str]) -> int:
    """COCO AP of weights: `ablab eval weights=FILE data=NAME [model=NAME] [eval.resolutions=[320,416]]`.

    Weights of ablab's own know their network and the size that they were trained at; others need model=. NMS and the
    lowest score that counts are those of eval=coco, unless eval= or the model= says otherwise.
    """
    from ablab.console import table
    from ablab.driver import measure

    own, asked = _own_arguments(words, {"weights": None})
    weights = own["weights"]
    if weights is None:
        compose(asked)  # names a mistyped key
        raise UserError("name the weights: ablab eval weights=FILE data=NAME [model=NAME]")
    file = Path(str(weights)).resolve()
    file = file / "weights.safetensors" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"weights={weights}: there is no file {_shown(file)}")
    numbers = measure(asked, {"data", "evaluate"}, file)
    rows = [[n["imgsz"], *map(_percent, _family(n)), n["images"]] for n in numbers]
    print(table(["input", "mAP50", "mAP", "mAP75", "images"], rows))
    for n in numbers:
        per_class = [[name, _percent(ap["map50"]), _percent(ap["map"])] for name, ap in n["per_class"].items()]
        print(f"\n{n['imgsz']} px, by class and by size")
        sizes = [[size, "", _percent(n[f"map_{size}"])] for size in ("small", "medium", "large")]
        print(table(["", "mAP50", "mAP"], per_class + sizes))
    return DONE


def predict(words: list[str]) -> int:
    """Boxes on your images, folders or videos: `ablab predict weights=FILE source=PATH [model=NAME]`.

    Writes images and videos with the boxes drawn, and predictions.json (file, frame, class, box x1 y1 x2 y2 in px,
    score), to reports/predict or out=FOLDER. Also: conf=.25, the lowest score that is shown, and imgsz=, by default
    the schedule's. Weights of ablab's own know their network and their classes; others need model= and data=.
    """
    from ablab.prediction import predict_verb

    return predict_verb(words)


def profile(words: list[str]) -> int:
    """Costs of a model: `ablab profile model=NAME [eval.resolutions=[320,640]]`; 80 classes unless data is named.

    With --multirun (-m) of each combination, in one table: `ablab profile -m 'model=glob(*)' head_prune.ratio=0,.5`.
    """
    from ablab.profile import profile_verb

    return profile_verb(words)


def report(words: list[str]) -> int:
    """Write the table again from MLflow alone: `ablab report study=NAME`, or `ablab report experiments`."""
    from ablab.driver import render, render_experiments

    study, asked = _study_argument(words)
    table = render_experiments(asked) if study == "experiments" else render(compose(asked).resolved, study)
    print(table.read_text())
    return DONE


def data(words: list[str]) -> int:
    """What a data set holds, and a picture of labelled samples: `ablab data data=NAME data.root=PATH [--augmented]`.

    --augmented draws a second picture: training images in four epochs each, as `augment` and `seed` make them.
    """
    from ablab.console import table
    from ablab.data import anchors
    from ablab.data.dataset import load
    from ablab.data.draw import augmented_sheet, contact_sheet
    from ablab.data.form import read_image
    from ablab.data.summary import summary
    from ablab.driver import describe_data, reports_folder, settled
    from ablab.study.limits import check

    asked = parse([word for word in words if word != "--augmented"])
    composed = compose(asked)
    config = composed.resolved
    check(composed)
    folder = reports_folder(config, "data")
    splits = describe_data(config)(config["data"])["splits"]
    for split in splits:
        dataset = load(config["data"], split)
        for sample in dataset.samples:
            read_image(sample)  # a corrupt one is told here, not when training starts
        headers, rows, dirt = summary(dataset)
        empty = sum(not len(sample.boxes) for sample in dataset.samples)
        print(f"{split}: {len(dataset.samples)} images, {empty} without a box\n{table(headers, rows)}")
        print("".join(f"  {line}\n" for line in dirt or ["nothing wrong was found in the annotations"]))
        if split == "train" and (told := anchors.told(settled(asked), config, dataset)):
            print(f"{told}\n")
    name = composed.choices["data"]
    picture = contact_sheet(load(config["data"], next(iter(splits))), folder / f"{name}.png")
    print(f"labelled samples: {_shown(picture)}")
    if "--augmented" in words:
        picture = augmented_sheet(load(config["data"], "train"), config, folder / f"{name}_augmented.png")
        print(f"the same image in each row, augmented in four epochs: {_shown(picture)}")
    return DONE


def config(words: list[str]) -> int:
    """The resolved configuration, and where each value came from: `ablab config [key=value ...]`."""
    import yaml

    from ablab.driver import settled

    asked = parse(words)
    composed = compose(asked)
    written = flatten(composed.resolved)
    lines = []
    for key, value in flatten(settled(asked)).items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        decided = "this machine" if key.startswith("engine.") else "the data"
        lines.append((f"{key}: {text}", composed.origin(key) if written.get(key) == value else decided))
    width = min(60, max(len(text) for text, _ in lines))
    print("# " + ", ".join(f"{group}={choice}" for group, choice in sorted(composed.choices.items())))
    for text, origin in lines:
        print(f"{text:<{width}}  # {origin}")
    if unread := composed.unread():
        print(f"# no chosen part reads: {', '.join(unread)}")
    return DONE


def ui(words: list[str]) -> int:
    """Open MLflow's pages on the loopback address: `ablab ui [port=5000]`."""
    from ablab import tracking

    own, asked = _own_arguments(words, {"port": 5000})
    if type(own["port"]) is not int or not 0 < own["port"] < 65536:
        raise UserError(f"port={own['port']}: expected a whole number from 1 to 65535")
    tracking.ui(compose(asked).resolved["tracking"]["uri"], own["port"])
    return DONE


def store(words: list[str]) -> int:
    """See to the store: `ablab store ls | verify | gc [delete=true] | export study=NAME file=F | import file=F`."""
    from ablab.storekeeping import store_verb

    def recorded(config: dict[str, Any]) -> set[str]:
        from ablab import tracking

        return tracking.fingerprints(config["tracking"]["uri"])

    return store_verb(words, recorded)


VERBS: dict[str, Callable[[list[str]], int]] = {
    "plan": plan,
    "sweep": sweep,
    "status": status,
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "profile": profile,
    "report": report,
    "data": data,
    "config": config,
    "store": store,
    "ui": ui,
}


# ---------------------------------------------------------------------------------------------- what they share


def _help() -> str:
    verbs = "\n".join(f"  {name:<8} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items())
    return f"ablab: ablation studies of light object detectors\n\n{verbs}\n\n{_choices()}"


def _choices() -> str:
    known = "\n".join(f"  {group:<11} {', '.join(choices)}" for group, choices in groups().items())
    return (
        f"groups and their choices (group=choice; any key of theirs: group.key=value)\n{known}\n\n"
        f"studies (study=NAME)\n  {', '.join(yaml_names('sweeps'))}\n\n"
        "`ablab config` prints every key. Exit codes: 0 done, 1 some variants failed, 2 your mistake, 130 interrupted."
    )


def _own_arguments(words: list[str], defaults: dict[str, Any]) -> tuple[dict[str, Any], list[Override]]:
    """A verb's own `key=value`s apart from the configuration's."""
    asked = parse(words)
    own = defaults | {override.key: override.value for override in asked if override.key in defaults}
    return own, [override for override in asked if override.key not in defaults]


def _study_argument(words: list[str]) -> tuple[str, list[Override]]:
    bare = [word for word in words if "=" not in word and not word.startswith("-")]
    first = bare[0] if bare and not any(word.startswith("study=") for word in words) else None
    named = [f"study={word}" if word == first else word for word in words]
    own, asked = _own_arguments(named, {"study": None})
    if own["study"] is None:
        raise UserError(f"name a study: study=NAME. There are: {', '.join(yaml_names('sweeps'))}")
    return str(own["study"]), asked


def _family(numbers: dict[str, Any]) -> tuple[Any, Any, Any]:
    return numbers["map50"], numbers["map"], numbers["map75"]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    sys.exit(main())
