"""`spec.model`: what is served, under which names, and where its weights live."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Annotated

from pydantic import Field

from lull.api.base import LIST_SET, SOURCE_PATTERN, ApiModel, ObjectName, Quantity, Rule, ServedName, is_fetched


@unique
class Task(StrEnum):
    GENERATE = "Generate"
    EMBED = "Embed"
    RERANK = "Rerank"
    CLASSIFY = "Classify"


@unique
class CacheType(StrEnum):
    EPHEMERAL = "Ephemeral"
    CLAIM = "PersistentVolumeClaim"
    HOST_PATH = "HostPath"


@unique
class AccessMode(StrEnum):
    READ_WRITE_MANY = "ReadWriteMany"
    READ_WRITE_ONCE = "ReadWriteOnce"


class CacheSpec(ApiModel):
    rules = (
        Rule(
            "self.type != 'PersistentVolumeClaim' || has(self.size) != has(self.claimName)",
            lambda cache: cache.type is not CacheType.CLAIM or (cache.size is None) != (cache.claim_name is None),
            "type PersistentVolumeClaim needs either size (Lull creates the claim) or claimName (it is there already)",
        ),
        Rule(
            "self.type == 'PersistentVolumeClaim' || (!has(self.claimName) && !has(self.storageClassName))",
            lambda cache: (
                cache.type is CacheType.CLAIM or (cache.claim_name is None and cache.storage_class_name is None)
            ),
            "claimName and storageClassName go with type PersistentVolumeClaim",
        ),
        Rule(
            "!has(self.claimName) || (!has(self.storageClassName) && !has(self.accessMode))",
            lambda cache: cache.claim_name is None or (cache.storage_class_name is None and cache.access_mode is None),
            "storageClassName and accessMode are for a claim that Lull creates: leave them out beside claimName",
        ),
        Rule(
            "self.type == 'PersistentVolumeClaim' || !has(self.accessMode)",
            lambda cache: cache.type is CacheType.CLAIM or cache.access_mode is None,
            "accessMode goes with type PersistentVolumeClaim",
        ),
        Rule(
            "(self.type == 'HostPath') == has(self.path)",
            lambda cache: (cache.type is CacheType.HOST_PATH) == (cache.path is not None),
            "type HostPath needs path, and path goes with type HostPath only",
        ),
        Rule(
            "self.type != 'HostPath' || !has(self.size)",
            lambda cache: cache.type is not CacheType.HOST_PATH or cache.size is None,
            "a HostPath has no size: leave size out",
        ),
        Rule(
            "!has(self.path) || !self.path.contains('..')",
            lambda cache: cache.path is None or ".." not in cache.path,
            "path must not contain '..'",
        ),
    )

    type: Annotated[
        CacheType,
        Field(
            description=(
                "Where weights live between pods. Ephemeral: in the pod, fetched anew by each. PersistentVolumeClaim: "
                "in a volume that pods share, fetched once. HostPath: in a folder of each node, fetched once per node; "
                "pod security `restricted` refuses it. A change restarts the pods."
            )
        ),
    ] = CacheType.EPHEMERAL
    size: Annotated[
        Quantity | None,
        Field(
            description=(
                "For PersistentVolumeClaim: size of the claim that Lull creates, which may grow later. For Ephemeral: "
                "most that weights may take in the pod; default: what the node has. A change for Ephemeral restarts "
                "the pods."
            )
        ),
    ] = None
    storage_class_name: Annotated[
        ObjectName | None,
        Field(description="StorageClass of the claim. Default: the cluster's. It cannot be changed later."),
    ] = None
    access_mode: Annotated[
        AccessMode | None,
        Field(
            description=(
                "How nodes may mount the claim. Default: ReadWriteMany, as replicas run on several nodes; "
                "ReadWriteOnce keeps all replicas on one node. It cannot be changed later."
            )
        ),
    ] = None
    claim_name: Annotated[
        ObjectName | None,
        Field(
            description=(
                "A claim of the same namespace to use instead of creating one; several LLMDeployments may share it. "
                "A change restarts the pods."
            )
        ),
    ] = None
    path: Annotated[
        str | None,
        Field(
            pattern=r"^/[A-Za-z0-9._/-]*[A-Za-z0-9._-]$",
            max_length=256,
            description="Folder on the node, writable by group 0. A change restarts the pods.",
        ),
    ] = None


class ModelSpec(ApiModel):
    rules = (
        Rule(
            "!self.source.contains('..')",
            lambda model: ".." not in model.source,
            "source must not contain '..'",
        ),
        Rule(
            "!has(self.name) || !(self.name in self.aliases)",
            lambda model: model.name not in model.aliases,
            "aliases must not repeat name",
        ),
        Rule(
            "!has(self.secretName) || !(self.source.startsWith('pvc://') || self.source.startsWith('file://'))",
            lambda model: model.secret_name is None or is_fetched(model.source),
            "secretName is for hf://, s3://, gs:// and oci:// sources; pvc:// and file:// are read without credentials",
        ),
        Rule(
            "self.cache.type == 'Ephemeral' "
            "|| !(self.source.startsWith('pvc://') || self.source.startsWith('file://'))",
            lambda model: model.cache.type is CacheType.EPHEMERAL or is_fetched(model.source),
            "cache is for sources that are fetched; pvc:// and file:// are in place already",
        ),
    )

    source: Annotated[
        str,
        Field(
            pattern=SOURCE_PATTERN,
            max_length=512,
            description=(
                "Where the weights come from: hf://org/name[@revision], s3://bucket/prefix, gs://bucket/prefix, "
                "oci://registry/repository[:tag][@sha256:digest], pvc://claim[/path] (a volume claim in the same "
                "namespace) or file:///path (inside the engine image). A change restarts the pods."
            ),
        ),
    ]
    name: Annotated[
        ServedName | None,
        Field(
            description=(
                'What clients send as "model". Default: the name of the LLMDeployment. A change restarts the pods.'
            )
        ),
    ] = None
    aliases: Annotated[
        list[ServedName],
        Field(
            max_length=16,
            description="Further names under which the same model answers. A change restarts the pods.",
            json_schema_extra=LIST_SET,
        ),
    ] = []
    task: Annotated[
        Task,
        Field(
            description=(
                "What the model does: Generate text, Embed it, Rerank or Classify it; it decides how vLLM runs the "
                "model. A change restarts the pods."
            )
        ),
    ] = Task.GENERATE
    secret_name: Annotated[
        ObjectName | None,
        Field(
            description=(
                "Secret in the same namespace that opens the source: key `token` for hf://; AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and if needed AWS_REGION, AWS_ENDPOINT_URL for s3://; service-account.json for "
                "gs://; .dockerconfigjson for oci://. It is mounted into the pod; the operator never reads it. "
                "A change restarts the pods."
            ),
        ),
    ] = None
    trust_remote_code: Annotated[
        bool,
        Field(
            description=(
                "Let the engine run Python code that comes with the model (--trust-remote-code). Only for sources "
                "that you trust as you trust the image. A change restarts the pods."
            )
        ),
    ] = False
    cache: Annotated[CacheSpec, Field(description="Where weights live between pods.")] = CacheSpec()
