"""`vlmed run --executor ray`: what its options mean, and the executor they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmed.evaluate.ray_executor import RayExecutor
    from vlmed.evaluate.ray_worker import RunnerOf
    from vlmed.models.protocols import LoadedModel


@dataclass(frozen=True)
class RayOptions:
    """The options of `vlmed run` that are about Ray, as they were given."""

    address: str | None
    workers: int | None
    cpus: float | None
    gpus: float | None

    def check(self, executor: str, models: Sequence[str], device: str) -> None:
        """See that they fit each other, before anything is loaded.

        Raises:
            UsageError: They are given without Ray, or the model or the device is none for workers.
        """
        from vlmed.errors import UsageError

        if executor != "ray":
            if any(option is not None for option in (self.address, self.workers, self.cpus, self.gpus)):
                hint = "add --executor ray"
                raise UsageError("--ray-address and --worker... are for Ray", expected="--executor ray", hint=hint)
            return
        if behind := [model for model in models if "endpoint:" in model]:
            hint = "leave out --executor ray, and let the server itself run on many machines (docs/many-machines.md)"
            raise UsageError("an endpoint is asked by one process, which keeps its budget", got=behind[0], hint=hint)
        if device.startswith("cuda:"):
            raise UsageError("a worker sees only the GPUs that Ray gives it", expected="--device cuda", got=device)

    def executor(self, load: Callable[[], LoadedModel], runner_of: RunnerOf, device: str) -> RayExecutor:
        """Workers with the model `load` loads.

        Raises:
            MissingError, UsageError: As `RayExecutor`.
        """
        from vlmed.evaluate.ray_crew import Share
        from vlmed.evaluate.ray_executor import RayExecutor

        gpus = self.gpus if self.gpus is not None else float(device == "cuda")
        return RayExecutor(load, runner_of, self.address, Share(self.cpus or 1, gpus, self.workers))
