"""The training command for several processes: `accelerate launch -m diva_grpo.trainer ...` runs it on each of them."""

import sys

from diva_grpo.schemas.exceptions import ConfigError, DivaError, MissingExtraError
from diva_grpo.trainer.arguments import check_names
from diva_grpo.trainer.model_path import check_model

try:
    with MissingExtraError.named_for("training"):
        check_names(sys.argv[1:])
        check_model(sys.argv[1:])
        from diva_grpo.trainer.train import main  # takes seconds, so the arguments are checked before

    main(sys.argv[1:])
except DivaError as error:
    print(f"diva train: {error}", file=sys.stderr)
    sys.exit(2 if isinstance(error, ConfigError) else 1)
