"""FSDP2: shard parameters, gradients and optimizer state over GPUs, --trainer.strategy=fsdp2"""

import os
import shutil
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import distributed, nn
from torch.distributed.checkpoint import async_save
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from callbacks.atomic_checkpoint_io import first_os_error, write
from callbacks.contract import trained_model


class FullySharded(ModelParallelStrategy):
    """FSDP2 by block. Each node holds one copy of the model, sharded over its GPUs, and the nodes average gradients.

    Gathered weights are kept from the forward to the backward pass, as in the paper's ZeRO-2, and while gradients
    accumulate. Gradients and optimizer state, the larger part of the memory, are always sharded.

    The blocks, and the methods that training calls on them, are those of the model's `hot_paths()`. Weights are
    gathered in float32 and cast by autocast, and gradients are averaged in float32, so a model trains as on one GPU.

    A checkpoint is a folder of shards, written in the background. Its name is a link. The link is set to the new folder
    when all ranks have written their shards, so it points to a whole checkpoint at every moment.
    """

    _saving: Future | None = None  # of the checkpoint that is being written

    def setup_environment(self) -> None:
        super().setup_environment()
        assert self.lightning_module is not None
        # Lightning lets a model shard itself in this hook; here the strategy does it, from outside the model
        vars(self.lightning_module)["configure_model"] = self._shard
        self._savers = distributed.new_group(backend="gloo")  # a group of its own, as saving runs beside training
        self._background = ThreadPoolExecutor(1)

    def _shard(self) -> None:
        model = self.lightning_module
        assert model is not None and self.device_mesh is not None
        nodes, devices = self.device_mesh.shape
        mesh = self.device_mesh
        if nodes == 1 or devices == 1:
            mesh = mesh[
                "data_parallel" if devices == 1 else "tensor_parallel"
            ]  # Lightning's names of the two dimensions
        class_name = type(model).__name__
        self._marks = {name: vars(parameter) for name, parameter in model.named_parameters()}
        for block, method in trained_model(model).hot_paths():
            if block is not model:
                fully_shard(block, mesh=mesh, reshard_after_forward=False)
                register_fsdp_forward_method(block, method)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        for method in ("training_step", "validation_step"):  # they need not call the model's forward
            register_fsdp_forward_method(model, method)
        model.register_forward_hook(_reshard)  # evaluation calls forward, and no backward pass reshards after it
        type(model).__name__ = class_name  # checkpoints hold the class's name, which FSDP2 has prefixed

    def setup_optimizers(self, trainer: L.Trainer) -> None:
        """Restore attributes of parameters, such as no_weight_decay, which sharding and the move to the GPU lose."""
        assert self.model is not None
        for name, parameter in self.model.named_parameters():
            vars(parameter).update(self._marks[name])
        super().setup_optimizers(trainer)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.model is not None
        output = super().validation_step(*args, **kwargs)
        _reshard(self.model)
        return output

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Sum accumulating gradients within each node, where they are sharded, but not between nodes."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_all_reduce(False)
        self.model.set_reshard_after_backward(False)
        yield
        self.model.set_requires_all_reduce(True)
        self.model.set_reshard_after_backward(True)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | os.PathLike, storage_options: Any = None
    ) -> None:
        self._wait()  # for the checkpoint before
        link = Path(filepath).absolute()
        folder = next(f for f in (link.with_suffix(".0"), link.with_suffix(".1")) if f != _target(link))
        folder = self.broadcast(folder)
        shards = {"state_dict": checkpoint.pop("state_dict")}
        shards |= {f"optimizer_{i}": state for i, state in enumerate(checkpoint.pop("optimizer_states", []))}
        self._write_meta(checkpoint, folder)
        written = async_save(shards, checkpoint_id=folder, process_group=self._savers)
        assert isinstance(written, Future)

        def finish() -> None:
            try:
                written.result()
            except (Exception, CheckpointException) as error:  # the latter is no Exception
                if self.global_rank == 0:
                    shutil.rmtree(folder, ignore_errors=True)
                raise _as_os_error(error, folder) from error
            if self.global_rank == 0:
                point(link, folder)

        self._saving = self._background.submit(finish)

    def _write_meta(self, checkpoint: dict[str, Any], folder: Path) -> None:
        """Make the folder and write all that is not sharded, on rank 0, or raise its OSError on all ranks."""
        problem = None
        if self.global_rank == 0:
            try:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                write(checkpoint, folder / "meta.pt")  # Lightning's name of the file
            except OSError as error:
                problem = error
        problem = self.broadcast(problem)
        if problem is not None:
            raise problem

    def _wait(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()  # raises the error of the background thread, if any

    def teardown(self) -> None:
        try:
            self._wait()
        finally:
            super().teardown()


def _as_os_error(error: BaseException, folder: Path) -> OSError:
    """Return why a rank could not write its shard. The errors of the ranks come in one that prints their traces."""
    failures = error.failures.values() if isinstance(error, CheckpointException) else [(error, None)]
    cause = next(filter(None, (first_os_error(failure) for failure, _ in failures)), None)
    if cause is None:
        return OSError(f"a shard was not written to {folder} ({next(iter(failures))[0]})")
    return OSError(cause.errno, cause.strerror, str(folder))


def _reshard(model: nn.Module, *_: Any) -> None:
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def point(link: Path, folder: Path) -> None:
    """Set the link to the folder beside it in one atomic step, and delete the folder that it pointed to."""
    before = _target(link)
    new = link.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.symlink_to(folder.name)
    new.replace(link)
    if before is not None and before != folder:
        shutil.rmtree(before, ignore_errors=True)


def _target(link: Path) -> Path | None:
    """Return the folder that the link points to, or None without a link.

    Path.resolve would also follow links in the path to the link, and return another path for the same folder.
    """
    return link.with_name(os.readlink(link)) if link.is_symlink() else None


StrategyRegistry.register("fsdp2", FullySharded, description="FSDP2 by block, with clipping and sharded checkpoints")
