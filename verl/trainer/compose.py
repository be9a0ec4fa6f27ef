"""From the command line to a checked configuration: the one place that knows Hydra.

Hydra composes the presets (`verl/trainer/config/*.yaml`) over `schema`, the defaults of the dataclasses, and applies
the command line. Whether a key exists is not Hydra's question here: every override is allowed to add, and
`verl.config` answers all unknown keys, wrong values and broken rules at once. Torch is not imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import itertools
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from verl.config import ConfigError, attempt
from verl.config.ignored import take_ignored
from verl.config.secrets import learn
from verl.config.verl_keys import RENAMED
from verl.trainer.hydra_errors import sentence, yaml_sentence
from verl.trainer.resolve import Resolved, register_resolvers, resolve

ConfigT = TypeVar("ConfigT")
Check = Callable[[Any], list[str]]

PRESETS = Path(__file__).parent / "config"
DOORS = {"sft_trainer": "main_sft", "generation": "main_generation", "evaluation": "main_eval"}
"""By the preset that is each one's own; all others are of main_ppo."""
OVERRIDE = re.compile(r"(?P<plus>\+{0,2})(?P<key>[A-Za-z_][\w.\-]*)=(?P<value>.*)", re.DOTALL)
# Hydra writes no folder, no log file and no copy of its own: a run has one folder, and the trainer fills it.
HYDRA_SETTINGS = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.run.dir=.", "hydra.output_subdir=null")
HELP = """{door}: `python -m {door} [--config-name PRESET] [key=value ...]`

Presets: {presets}; a folder of your own is added with --config-dir.
Print the resolved configuration with `--cfg job --resolve`, sweep with `-m key=1,2`; `trainer.dry_run=true` prints the
plan of a run and starts nothing. The keys, with their defaults or the preset's choices:

$CONFIG
Flags of Hydra:

$FLAGS_HELP
"""


@dataclass(frozen=True)
class Composed(Generic[ConfigT]):
    """One run that the command line asks for (several with `-m`)."""

    config: ConfigT
    notes: list[str]
    """What was accepted without effect, for people."""


def compose(cls: type[ConfigT], preset: str, argv: Sequence[str], check: Check) -> list[Composed[ConfigT]]:
    """Compose the runs that a command line asks for; none when it only asks for information (`--help`, `--cfg`).

    Args:
        cls: root of the dataclass tree.
        preset: used without `--config-name`.
        argv: arguments after the program's name.
        check: rules between the parts of a configuration.

    Raises:
        ConfigError: everything that is wrong, one sentence each.
    """
    arguments, renamed = translate(argv)
    runs: list[Composed[ConfigT]] = []
    problems: list[str] = []
    for tree in _compose_with_hydra(cls, preset, arguments):
        learn(tree.values)  # before anything is said about them
        run, wrong = _build_run(cls, tree, check)
        problems += [problem for problem in wrong if problem not in problems]
        runs.append(dataclasses.replace(run, notes=renamed + run.notes))
    if problems:
        raise ConfigError(problems)
    return _separate_folders(runs)


def translate(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Let every override add its key, replace old names, and put overrides last, as Hydra's parser wants them.

    Returns the arguments and notes on old names.

    Raises ConfigError when a key is missing, or when an old and a new name of one key have different values.
    """
    groups = _config_groups(argv)
    flags: list[str] = []
    overrides: list[str] = []
    notes: list[str] = []
    given: dict[str, tuple[str, str]] = {}
    problems: list[str] = []
    for argument in argv:
        match = OVERRIDE.fullmatch(argument)
        if argument.startswith("="):
            problems.append(f"{argument}: lacks the key; an override is key=value")
            continue
        if match is None or match["key"].startswith("hydra.") or match["key"] in groups:
            is_override = argument[0] != "-" and ("=" in argument or argument.startswith("~"))
            (overrides if is_override else flags).append(argument)
            continue
        key, value = RENAMED.get(match["key"], match["key"]), match["value"]
        if key != match["key"]:
            notes.append(f"{match['key']} is deprecated: it is the old name of {key}.")
        other_name, other_value = given.setdefault(key, (match["key"], value))
        if other_name != match["key"] and other_value != value:
            problems.append(f"{match['key']}={value}: is another name of {other_name}={other_value}; give only {key}")
        overrides.append(f"++{key}={value}")
    if problems:
        raise ConfigError(problems)
    return flags + overrides, notes


def _config_groups(argv: Sequence[str]) -> set[str]:
    """Folders of presets in the user's own configuration folder: `group=choice` is not a key."""
    folders = [value for flag, value in itertools.pairwise(argv) if flag in ("--config-dir", "-cd")]
    folders += [argument.partition("=")[2] for argument in argv if argument.startswith("--config-dir=")]
    return {entry.name for folder in folders if os.path.isdir(folder) for entry in os.scandir(folder) if entry.is_dir()}


def _compose_with_hydra(cls: type, preset: str, arguments: Sequence[str]) -> list[Resolved]:
    """The resolved tree of each run. Exits as Hydra does after `--help` and the like."""
    with contextlib.suppress(KeyError, OSError):  # a user without a name: presets that need it will say so
        os.environ.setdefault("USER", getpass.getuser())
    register_resolvers()
    door = f"verl.trainer.{DOORS.get(preset, 'main_ppo')}"
    schema = dataclasses.asdict(cls())  # pyright: ignore[reportArgumentType]
    schema["hydra"] = {
        "help": {"app_name": door, "template": HELP.format(door=door, presets=", ".join(preset_names()))}
    }
    ConfigStore.instance().store(name="schema", node=schema)
    trees: list[Resolved] = []

    def collect(config: DictConfig) -> None:
        trees.append(resolve(config))

    with tempfile.TemporaryDirectory() as folder:
        settings = [*HYDRA_SETTINGS, f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=."]
        given = {argument.partition("=")[0] for argument in arguments}
        settings = [setting for setting in settings if setting.partition("=")[0] not in given]
        with _hydra_arguments([*arguments, *settings]):
            try:
                hydra.main(config_path=str(PRESETS), config_name=preset, version_base="1.3")(collect)()
            except yaml.YAMLError as error:
                raise ConfigError([yaml_sentence(error)]) from error
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                raise ConfigError([sentence(error, preset_names())]) from error
    return trees


def preset_names() -> list[str]:
    """What `--config-name` knows without `--config-dir`."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


@contextlib.contextmanager
def _hydra_arguments(arguments: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, and prints errors itself unless it is told to raise them."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [before[0], *arguments], "1"
    try:
        yield
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


def _build_run(cls: type[ConfigT], tree: Resolved, check: Check) -> tuple[Composed[ConfigT], list[str]]:
    """Make the dataclass tree and check it. Rules that involve a key that is wrong already are not asked."""
    rest, notes, problems = take_ignored(tree.values)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config, wrong = attempt(cls, rest)
    notes += [f"{warning.message}." for warning in caught]
    problems = tree.problems + problems + wrong
    wrong_keys = tree.failed_keys + [match[1] for problem in problems if (match := re.match(r"([\w.]+)=", problem))]
    for problem in check(config):
        if not any(re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", problem) for key in wrong_keys):
            problems.append(problem)
    return Composed(config, notes), problems


def _separate_folders(runs: list[Composed[ConfigT]]) -> list[Composed[ConfigT]]:
    """Runs of a sweep that would share a run folder get numbered folders below it."""
    folders = [run.config.trainer.default_local_dir for run in runs]  # pyright: ignore[reportAttributeAccessIssue]
    if len(set(folders)) == len(runs):
        return runs
    return [dataclasses.replace(run, config=_in_folder(run.config, str(i))) for i, run in enumerate(runs)]


def _in_folder(config: Any, name: str) -> Any:
    trainer = config.trainer
    folder = os.path.join(trainer.default_local_dir or "checkpoints", name)
    return dataclasses.replace(config, trainer=dataclasses.replace(trainer, default_local_dir=folder))
