"""What NVIDIA's management library (libnvidia-ml, part of the driver) says of the GPUs of a node, through ctypes.

Source of names, types and numbers: https://docs.nvidia.com/deploy/nvml-api/ . A value that a GPU does not support, or
that this user may not read, is None.
"""

import ctypes
from typing import Any, Optional, TypedDict

LIBRARY = "libnvidia-ml.so.1"

THROTTLE_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}
"""Bits of nvmlClocksThrottleReasons; idle GPUs and clocks that were set on purpose are not among them."""

_SUCCESS = 0
_SM, _MEMORY = 1, 2
_CORRECTED, _UNCORRECTED, _SINCE_RESET = 0, 1, 0
_MEMORY_TEMPERATURE = 82  # NVML_FI_DEV_MEMORY_TEMP


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _PciInfo(ctypes.Structure):
    _fields_ = [
        ("bus_id_legacy", ctypes.c_char * 16),
        *[(name, ctypes.c_uint) for name in ("domain", "bus", "device", "pci_device_id", "pci_subsystem_id")],
        ("bus_id", ctypes.c_char * 32),
    ]


class _FieldValue(ctypes.Structure):
    _fields_ = [
        ("field_id", ctypes.c_uint),
        ("scope_id", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latency_us", ctypes.c_longlong),
        ("value_type", ctypes.c_int),
        ("status", ctypes.c_int),
        ("value", ctypes.c_ulonglong),
    ]


class GpuSample(TypedDict):
    """What one GPU does now."""

    sm_mhz: Optional[int]
    memory_mhz: Optional[int]
    power_w: Optional[float]
    temperature_c: Optional[int]
    memory_temperature_c: Optional[int]
    memory_bytes: Optional[int]
    utilization_percent: Optional[int]
    """The share of the last moments in which a kernel ran."""
    throttle: Optional[int]
    """Bits of THROTTLE_REASONS."""
    corrected: Optional[int]
    """Errors of its memory that were corrected since the driver was loaded."""
    uncorrected: Optional[int]


class NvmlError(Exception):
    """Why the library cannot be used."""


class NvmlDevice:
    """One GPU."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle
        self.uuid = self._text("nvmlDeviceGetUUID")
        self.name = self._text("nvmlDeviceGetName")
        pci = _PciInfo()
        found = self._ask("nvmlDeviceGetPciInfo_v3", ctypes.byref(pci))
        self.address = pci.bus_id.decode(errors="replace").lower() if found else ""

    def sample(self) -> GpuSample:
        """Return what it does now."""
        power = self._number("nvmlDeviceGetPowerUsage")
        memory, utilization = _Memory(), _Utilization()
        has_memory = self._ask("nvmlDeviceGetMemoryInfo", ctypes.byref(memory))
        has_utilization = self._ask("nvmlDeviceGetUtilizationRates", ctypes.byref(utilization))
        throttle = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong)
        return {
            "sm_mhz": self._number("nvmlDeviceGetClockInfo", _SM),
            "memory_mhz": self._number("nvmlDeviceGetClockInfo", _MEMORY),
            "power_w": None if power is None else power / 1000,
            "temperature_c": self._number("nvmlDeviceGetTemperature", 0),
            "memory_temperature_c": self._memory_temperature(),
            "memory_bytes": int(memory.used) if has_memory else None,
            "utilization_percent": int(utilization.gpu) if has_utilization else None,
            "throttle": None if throttle is None else throttle & sum(THROTTLE_REASONS),
            "corrected": self._errors(_CORRECTED),
            "uncorrected": self._errors(_UNCORRECTED),
        }

    def _errors(self, kind: int) -> Optional[int]:
        return self._number("nvmlDeviceGetTotalEccErrors", kind, _SINCE_RESET, kind=ctypes.c_ulonglong)

    def _memory_temperature(self) -> Optional[int]:
        field = _FieldValue(field_id=_MEMORY_TEMPERATURE)
        found = self._ask("nvmlDeviceGetFieldValues", ctypes.c_int(1), ctypes.byref(field))
        # The value is an unsigned int, in the first bytes of a union.
        return int(field.value & 0xFFFFFFFF) if found and field.status == _SUCCESS and field.value else None

    def _number(self, function: str, *arguments: int, kind: Any = ctypes.c_uint) -> Optional[int]:
        value = kind()
        found = self._ask(function, *(ctypes.c_uint(each) for each in arguments), ctypes.byref(value))
        return int(value.value) if found else None

    def _text(self, function: str) -> str:
        text = ctypes.create_string_buffer(96)
        found = self._ask(function, text, ctypes.c_uint(len(text)))
        return text.value.decode(errors="replace") if found else ""

    def _ask(self, function: str, *arguments: Any) -> bool:
        called = getattr(self._library, function, None)
        return called is not None and called(self._handle, *arguments) == _SUCCESS


def load() -> Any:
    """Return the library, ready for use. Raises NvmlError."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NvmlError(f"{LIBRARY} cannot be loaded: {error}") from None
    return library


def devices(library: Any) -> "list[NvmlDevice]":
    """Return the GPUs that this process may use, in the order of their PCI addresses. Raises NvmlError."""
    status = library.nvmlInit_v2()
    if status != _SUCCESS:
        raise NvmlError(f"nvmlInit_v2 has failed with status {status}")
    count = ctypes.c_uint()
    status = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    if status != _SUCCESS:
        raise NvmlError(f"nvmlDeviceGetCount_v2 has failed with status {status}")
    found = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        # One that the cgroup of the job hides is another job's.
        if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == _SUCCESS:
            found.append(NvmlDevice(library, handle))
    return found
