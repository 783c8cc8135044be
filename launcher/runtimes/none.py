"""The bare machine: tasks run without a container."""

from launcher.runtimes.model import ContainerRuntime

NONE = ContainerRuntime(name="none", title="the bare machine", container=None)
