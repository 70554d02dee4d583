"""diva-grpo: difficulty-adaptive variants for GRPO (arXiv 2603.01106).

    from diva_grpo import GenerateConfig, Session, TeacherConfig, VariantStore, generate
    with Session(VariantStore("runs/store"), TeacherConfig(model="gpt-4.1-mini")) as session:
        generate(session, GenerateConfig())

The names below are the public interface. Each is imported when it is first used, so `import diva_grpo` loads nothing
else, and a name needs only its own extra (`curate`, `train`).
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diva_grpo.pipeline.export import export
    from diva_grpo.pipeline.grade import grade
    from diva_grpo.pipeline.ingest import ingest
    from diva_grpo.pipeline.session.session import Session
    from diva_grpo.pipeline.stages.curate import Stages, curate, generate, label, verify
    from diva_grpo.pipeline.store import VariantStore
    from diva_grpo.schemas.config import (
        ExportConfig,
        GenerateConfig,
        LabelConfig,
        TeacherConfig,
        VerifyConfig,
    )
    from diva_grpo.schemas.mapping import ColumnMapping
    from diva_grpo.trainer.config import DivaGRPOConfig
    from diva_grpo.trainer.grpo import DivaGRPOTrainer

__all__ = [
    "ColumnMapping",
    "DivaGRPOConfig",
    "DivaGRPOTrainer",
    "ExportConfig",
    "GenerateConfig",
    "LabelConfig",
    "Session",
    "Stages",
    "TeacherConfig",
    "VariantStore",
    "VerifyConfig",
    "curate",
    "export",
    "generate",
    "grade",
    "ingest",
    "label",
    "verify",
]

_MODULES = {
    "ColumnMapping": "schemas.mapping",
    "DivaGRPOConfig": "trainer.config",
    "DivaGRPOTrainer": "trainer.grpo",
    "ExportConfig": "schemas.config",
    "GenerateConfig": "schemas.config",
    "LabelConfig": "schemas.config",
    "Session": "pipeline.session.session",
    "Stages": "pipeline.stages.curate",
    "TeacherConfig": "schemas.config",
    "VariantStore": "pipeline.store",
    "VerifyConfig": "schemas.config",
    "curate": "pipeline.stages.curate",
    "export": "pipeline.export",
    "generate": "pipeline.stages.curate",
    "grade": "pipeline.grade",
    "ingest": "pipeline.ingest",
    "label": "pipeline.stages.curate",
    "verify": "pipeline.stages.curate",
}

# In a clone the other folders stand beside this one. A program in the root of a clone imports this folder, even if the
# package is installed from a wheel.
if not os.path.isdir(os.path.join(__path__[0], "schemas")):
    __path__.append(os.path.dirname(__path__[0]))

# OpenMP's threads spin while they wait: beside busy processes a training step would take many times as long. OpenMP
# reads this when torch is loaded, and every module of ours that loads torch is imported after this one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from diva_grpo.schemas.exceptions import MissingExtraError

    with MissingExtraError.named_for(name):
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
