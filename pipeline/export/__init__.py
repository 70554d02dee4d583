"""`export`: write the data of a store as training data for other programs.

report = export(VariantStore("store"), Path("out"), ExportConfig(format="hf", preset="trl"))
"""

from diva_grpo.pipeline.export.export import ExportReport, export
from diva_grpo.pipeline.export.hub import push

__all__ = ["ExportReport", "export", "push"]
