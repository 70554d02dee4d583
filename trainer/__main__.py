"""`accelerate launch -m diva_grpo.trainer ...`: the training command on every process."""

import sys

from diva_grpo.schemas.exceptions import ConfigError, DivaError, MissingExtraError

try:
    with MissingExtraError.named_for("training"):
        from diva_grpo.trainer.train import main
    main(sys.argv[1:])
except DivaError as error:
    print(f"diva train: {error}", file=sys.stderr)
    sys.exit(2 if isinstance(error, ConfigError) else 1)
