"""Messages of the Open Inference Protocol, version 2: requests and answers as values with a schema.

Source: https://github.com/kserve/open-inference-protocol, and for binary tensors the extension `binary_tensor_data` of
Triton and KServe.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Few = Field(max_length=16)
Side = Annotated[int, Field(ge=0, le=2**63 - 1)]
Threshold = Annotated[float, Field(ge=0, le=1, description="Probability below which an image is `unclassified`.")]
Bytes = Annotated[int, Field(ge=0, description="Size of a binary tensor, in bytes.")]
Datatype = Literal["BYTES", "UINT8", "FP32"]


class Message(BaseModel):
    """Message in which an unknown or a misspelt field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class RequestParameters(Message):
    """Parameters of a request."""

    threshold: Threshold | None = None
    deadline: Annotated[float, Field(gt=0, description="Seconds in which the answer is due.")] | None = None
    binary_data_output: Annotated[bool, Field(description="All outputs as binary tensors.")] = False


class InputParameters(Message):
    """Parameters of an input."""

    binary_data_size: Bytes | None = None


class InputTensor(Message):
    """Input: image files (`image`, BYTES, [N]) or decoded images (`pixels`, UINT8, [N, height, width, 3])."""

    name: Annotated[str, Field(description="`image` or `pixels`.")]
    shape: Annotated[list[Side], Few]
    datatype: Annotated[str, Field(description="`BYTES` for `image`, `UINT8` for `pixels`.")]
    parameters: InputParameters | None = None
    data: (
        Annotated[
            list[Any],
            Field(
                description="For `image` base64 texts of the files; for `pixels` whole numbers from 0 to 255, flat or "
                "nested. None of it where the tensor is binary."
            ),
        ]
        | None
    ) = None


class OutputParameters(Message):
    """Parameters of an output that is asked for."""

    binary_data: Annotated[bool, Field(description="The output as a binary tensor.")] | None = None


class RequestedOutput(Message):
    """Output that is asked for."""

    name: Annotated[str, Field(description="`probabilities` or `label`.")]
    parameters: OutputParameters | None = None


class InferenceRequest(Message):
    """Request to `infer`. Without `outputs`, all of them are answered."""

    id: str | None = None
    parameters: RequestParameters | None = None
    inputs: Annotated[list[InputTensor], Few]
    outputs: Annotated[list[RequestedOutput], Few] | None = None


class TensorParameters(BaseModel):
    """Parameters of an output."""

    binary_data_size: Bytes


class OutputTensor(BaseModel):
    """Output: `probabilities` (FP32, [N, K]) in the order of the classes, or `label` (BYTES, [N])."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: TensorParameters | None = None
    data: list[float] | list[str] | None = None


class InferenceResponse(BaseModel):
    """Answer of `infer`."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """Name, type and shape of a tensor; -1 for a dimension of any size."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelParameters(BaseModel):
    """Facts of a model.

    Attributes:
        classes: in the order of `probabilities`.
        temperature: divisor of the logits for calibrated probabilities.
        threshold: probability below which an image is `unclassified`, unless the request says another.
        weights: BLAKE2b hash of the weights.
        engine: library and precision that compute the network.
    """

    classes: list[str]
    temperature: float
    threshold: float
    weights: str
    engine: str


class ModelMetadata(BaseModel):
    """Metadata of a model. A request has one of the inputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: ModelParameters


class ModelList(BaseModel):
    """Models that are served; the first is the default."""

    models: list[ModelMetadata]


class ServerMetadata(BaseModel):
    """Name, version and extensions of the server."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """Answer of a server that runs."""

    live: bool


class Ready(BaseModel):
    """Readiness of the server; false while it ends."""

    ready: bool


class ModelReady(BaseModel):
    """Readiness of a model."""

    name: str
    ready: bool
