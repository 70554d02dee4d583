"""Arguments of training by their source, against the parser that reads them."""

from __future__ import annotations

import pytest
from trl import ModelConfig, TrlParser

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.arguments import check_names, known
from diva_grpo.trainer.config import DivaGRPOConfig
from diva_grpo.trainer.train import TrainArguments


def _parser() -> TrlParser:
    return TrlParser((TrainArguments, DivaGRPOConfig, ModelConfig))


def test_the_source_declares_what_the_parser_takes() -> None:
    actions = {action.dest: action for action in _parser()._actions}
    assert known().keys() == actions.keys() - {"help", "config"}
    helps = {"num_variants", "store", "learning_rate", "use_peft", "max_steps"}
    assert all(known()[name].help == " ".join(str(actions[name].help).split()) for name in helps)


def test_every_spelling_of_the_parser_passes() -> None:
    options = [
        option for action in _parser()._actions for option in action.option_strings if option[:2] == "--"
    ]
    check_names([f"{option}=1" for option in options])
    check_names(["--num_var", "2", "--learning_r=1"])  # abbreviations are for the parser


def test_a_name_far_from_all_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError, match=r"^there is no option '--qqqq' \(`diva train --help`\)$"):
        check_names(["--store", "s", "--qqqq"])
