"""Every reason that Lull gives, as closed sets: condition reasons, and reasons of scaling decisions.

The same member is the condition's reason, the Event's reason, the log field and the metric's label.
"""

from __future__ import annotations

from enum import StrEnum, unique


@unique
class ConditionType(StrEnum):
    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    SPEC_VALID = "SpecValid"
    WORKLOADS_READY = "WorkloadsReady"
    ADAPTERS_READY = "AdaptersReady"
    SCALING_ACTIVE = "ScalingActive"
    SPOT_AVAILABLE = "SpotAvailable"


@unique
class Reason(StrEnum):
    """Why a condition has its status; `REMEDIES` in core.remedies holds what to do about each that needs doing."""

    # SpecValid
    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    NAME_CONFLICT = "NameConflict"
    CHILD_NAME_TAKEN = "ChildNameTaken"
    INCOMPATIBLE_MODEL = "IncompatibleModel"
    """The model's config.json contradicts the spec."""
    LEADER_WORKER_SET_MISSING = "LeaderWorkerSetMissing"
    ACCELERATORS_EXCEED_NODES = "AcceleratorsExceedNodes"
    """A pod asks for more accelerators than any node of the cluster has."""
    NO_MATCHING_NODE = "NoMatchingNode"
    """A pool that no present node matches: a warning, as a node may come."""
    # Ready, WorkloadsReady, Reconciling, Stalled
    SERVING = "Serving"
    SCALED_TO_ZERO = "ScaledToZero"
    STARTING = "Starting"
    SCALING_DOWN = "ScalingDown"
    ROLLING_OUT = "RollingOut"
    SETTLED = "Settled"
    DELETING = "Deleting"
    UNSCHEDULABLE = "Unschedulable"
    INSUFFICIENT_ACCELERATORS = "InsufficientAccelerators"
    INSUFFICIENT_RESOURCES = "InsufficientResources"
    """CPU, memory or ephemeral storage."""
    TAINT_NOT_TOLERATED = "TaintNotTolerated"
    NODE_SELECTOR_MISMATCH = "NodeSelectorMismatch"
    VOLUME_PENDING = "VolumePending"
    CACHE_NOT_WRITABLE = "CacheNotWritable"
    POD_FORBIDDEN = "PodForbidden"
    """Pod security or another admission controller refuses the pods."""
    ROLLOUT_STALLED = "RolloutStalled"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    SOURCE_NOT_FOUND = "SourceNotFound"
    SOURCE_FORBIDDEN = "SourceForbidden"
    DISK_FULL = "DiskFull"
    FETCH_FAILED = "FetchFailed"
    ENGINE_ARGUMENT_INVALID = "EngineArgumentInvalid"
    """The engine refuses its command line."""
    ENGINE_CRASH_LOOP = "EngineCrashLoop"
    ENGINE_OUT_OF_MEMORY = "EngineOutOfMemory"
    CONFIG_ERROR = "ConfigError"
    QUOTA_EXCEEDED = "QuotaExceeded"
    COLD_START_TIMED_OUT = "ColdStartTimedOut"
    # AdaptersReady
    ADAPTERS_LOADED = "AdaptersLoaded"
    ADAPTERS_LOADING = "AdaptersLoading"
    ADAPTER_FAILED = "AdapterFailed"
    # SpotAvailable
    SPOT_RUNNING = "SpotRunning"
    SPOT_UNAVAILABLE = "SpotUnavailable"
    # ScalingActive
    SCALING = "Scaling"
    MANUAL = "Manual"
    METRICS_UNAVAILABLE = "MetricsUnavailable"


@unique
class ScalingReason(StrEnum):
    """Why a scaling decision came out as it did."""

    ACTIVATED = "Activated"
    """0 → 1: a request is held."""
    QUEUE_ABOVE_TARGET = "QueueAboveTarget"
    IN_FLIGHT_ABOVE_TARGET = "InFlightAboveTarget"
    LOAD_BELOW_TARGET = "LoadBelowTarget"
    WITHIN_TARGET = "WithinTarget"
    STABILIZING = "Stabilizing"
    """Load allows fewer replicas, but not yet for a whole stabilization window."""
    LOADING = "Loading"
    """Replicas are on their way; they count as capacity and are not scaled down."""
    IDLE = "Idle"
    """N → 0: no demand for `idleAfter`."""
    AT_MINIMUM = "AtMinimum"
    AT_MAXIMUM = "AtMaximum"
    SCHEDULED = "Scheduled"
    """A schedule asks for more than demand does."""
    LIMITED = "Limited"
    """`behavior` lets the count change only so fast."""
    POOLS_FULL = "PoolsFull"
    """The pools' maxReplicas together allow no more."""
    MANUAL = "Manual"
    """`spec.replicas` is set: a person, an HPA or KEDA decides."""
    SIGNAL_MISSING = "SignalMissing"
    """No fresh signal: what is there stays."""
