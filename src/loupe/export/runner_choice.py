"""Choice of the engine that runs an exported file."""

from pathlib import Path

from loupe.export.runners import OnnxRuntime, OpenVino, Runner


def runner_of(model: Path, callers: int = 1) -> Runner:
    """Engine that runs an exported file, by its kind, for threads that call it at a time; PyTorch takes one alone.

    Raises:
        ConfigError: the engine is not installed.
    """
    if model.suffix == ".pt2":
        from loupe.export.torch_runner import TorchProgram  # imported lazily: PyTorch

        return TorchProgram(model)
    return OpenVino(model, callers=callers) if model.suffix == ".xml" else OnnxRuntime(model, callers)
