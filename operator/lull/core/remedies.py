"""What to do about each reason that needs doing."""

from __future__ import annotations

from typing import Final

from lull.api import names
from lull.api.reasons import Reason
from lull.core.manifests.pods import CONTAINER_ENGINE

REMEDIES: Final = {
    Reason.INVALID_SPEC: "Correct the field; Lull tries again when the spec changes.",
    Reason.NAME_CONFLICT: "Give spec.model.name (or the alias) a value of its own, or delete the other LLMDeployment.",
    Reason.CHILD_NAME_TAKEN: (
        "Delete that object or create it under another name, or choose another metadata.name for the LLMDeployment."
    ),
    Reason.INCOMPATIBLE_MODEL: (
        "Change the field that it names, or spec.model.source; Lull tries again when the spec changes."
    ),
    Reason.LEADER_WORKER_SET_MISSING: (
        "Install the LeaderWorkerSet controller (lws.sigs.k8s.io), or set spec.accelerator.nodesPerReplica to 1."
    ),
    Reason.ACCELERATORS_EXCEED_NODES: (
        "Lower spec.parallelism, spread a replica over nodes with spec.accelerator.nodesPerReplica, or add larger nodes "
        "(where nodes are added by themselves, set nodesAutoscaled in the chart)."
    ),
    Reason.NO_MATCHING_NODE: (
        "Replicas wait there until such a node comes; else change spec.placement.pools, spec.accelerator or "
        "spec.parallelism."
    ),
    Reason.UNSCHEDULABLE: "Add nodes that fit, or ask for less: spec.placement, spec.podTemplate, spec.resources.",
    Reason.INSUFFICIENT_ACCELERATORS: (
        "Free accelerators or add nodes that have them, or ask for fewer: spec.parallelism, spec.scaling.maxReplicas, "
        "spec.accelerator."
    ),
    Reason.INSUFFICIENT_RESOURCES: (
        "Add larger nodes, or ask for less: spec.resources.cpu, spec.resources.memory, spec.model.cache.size."
    ),
    Reason.TAINT_NOT_TOLERATED: (
        "Tolerate the taint in the pool's spec.placement.pools[].tolerations (or spec.podTemplate.tolerations), or add "
        "nodes without it."
    ),
    Reason.NODE_SELECTOR_MISMATCH: (
        "Label a node so, add one, or change the pool's nodeSelector, product or capacityType in spec.placement.pools "
        "(or spec.podTemplate.nodeSelector, spec.accelerator.product)."
    ),
    Reason.VOLUME_PENDING: (
        "Check spec.model.cache (storageClassName, accessMode, claimName) against the cluster's StorageClasses: "
        "kubectl describe pvc says what the provisioner waits for."
    ),
    Reason.CACHE_NOT_WRITABLE: (
        "Let spec.podTemplate.securityContext.fsGroup or runAsUser be one that may write to the volume of "
        "spec.model.cache, or use another volume."
    ),
    Reason.POD_FORBIDDEN: (
        "Change what the cluster refuses in spec.podTemplate, spec.model.cache or spec.resources, or ask those who made "
        "the rule."
    ),
    Reason.ROLLOUT_STALLED: (
        "The replicas before keep serving: look at the new pods (kubectl describe pod), then change the spec back or on."
    ),
    Reason.IMAGE_PULL_FAILED: "Check spec.engine.image, and that the nodes reach its registry.",
    Reason.SOURCE_NOT_FOUND: "Check the name and the revision in spec.model.source.",
    Reason.SOURCE_FORBIDDEN: (
        "Set spec.model.secretName to a Secret that may read the model, and accept its licence on the hub."
    ),
    Reason.DISK_FULL: (
        "Weights lie on the node's ephemeral storage: use nodes with more of it, a smaller model, or a volume "
        "(spec.model.cache.type PersistentVolumeClaim)."
    ),
    Reason.FETCH_FAILED: "Lull keeps trying; check that pods can reach the source, and its state.",
    Reason.ENGINE_ARGUMENT_INVALID: "Correct the field of spec.engine or spec.parallelism that sets what it names.",
    Reason.ENGINE_CRASH_LOOP: (
        "Check spec.engine (image, extraArgs, maxModelLen) against the engine's log: "
        f"kubectl logs -l {names.LABEL_DEPLOYMENT}={{name}} -c {CONTAINER_ENGINE} --previous."
    ),
    Reason.ENGINE_OUT_OF_MEMORY: (
        "Raise spec.resources.memory, or lower spec.engine.maxModelLen or spec.engine.maxNumSeqs."
    ),
    Reason.CONFIG_ERROR: "Create what the pod refers to, or change the reference: spec.engine.env, spec.podTemplate.",
    Reason.QUOTA_EXCEEDED: "Raise the ResourceQuota of the namespace, or lower spec.scaling.maxReplicas.",
    Reason.COLD_START_TIMED_OUT: "Use a smaller model, faster storage, or spec.engine.enforceEager.",
    Reason.ADAPTER_FAILED: "Correct the adapter in spec.adapters.items; the model and the other adapters go on serving.",
    Reason.SPOT_UNAVAILABLE: (
        "Wait, add a pool of other spot nodes to spec.placement.pools, or raise spec.placement.onDemandBase."
    ),
    Reason.METRICS_UNAVAILABLE: "Check that the gateways run; until they answer, replicas stay as they are.",
}
"""A sentence for each reason, naming the field of the spec; `{name}` is the LLMDeployment's."""
