"""Does every trained parameter get a gradient? In training mode, over up to three batches: layers may be dropped."""

import torch

from fieldguide.doctor.facts import listing
from fieldguide.doctor.preflight.twin import Twin
from fieldguide.doctor.records import Test


def connected(twin: Twin) -> Test:
    trained = {name: p for name, p in twin.model.named_parameters() if p.requires_grad}
    twin.model.train(twin.replay.model.training)
    lost = list(trained)
    for batch in (twin.batch, *twin.batches[:3]):  # a few samples often suffice
        loss = twin.loss(batch)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, [trained[name] for name in lost], allow_unused=True)
            lost = [name for name, gradient in zip(lost, gradients, strict=True) if gradient is None]
        if not lost:
            return {"ok": True, "figure": 0.0, "says": f"all {len(trained)} parameters get a gradient"}
    share = sum(trained[name].numel() for name in lost) / sum(parameter.numel() for parameter in trained.values())
    return {
        "ok": False,
        "figure": share,
        "says": f"{listing(lost)} get no gradient: {share:.1%} of the numbers to learn",
    }
