"""Files of object stores (S3, Google Cloud Storage, Azure) through their file systems of fsspec (extra `cloud`).

A file is read in ranges of 16 MiB. Its version is compared after the last one, so that a file that was replaced in
between is noticed.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from loupe.data.remote import checksums
from loupe.data.remote.address import Address
from loupe.data.remote.failures import AttemptError, MissingError, RefusedError, RemoteError
from loupe.data.remote.patterns import fixed_folder, is_flat, matches
from loupe.data.remote.redaction import redacted_text
from loupe.data.remote.retries import RetryPolicy, with_retries
from loupe.data.remote.store import Answer, RemoteObject
from loupe.data.remote.web_transport import CREDENTIALS, causes, network_error
from loupe.errors import ConfigError

RANGE_BYTES = 16 << 20
LISTING_SECONDS = 300.0  # for a folder of many pages
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
# Names of exceptions of the libraries of the stores, which are not imported here.
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "RefreshError"}
_FORBIDDEN = {"ClientAuthenticationError", "TokenRetrievalError", "UnauthorizedSSOTokenError"}
_PUBLIC = {
    "s3": "For a public bucket, set FSSPEC_S3_ANON=true.",
    "gs": "For a public bucket, set FSSPEC_GS_TOKEN=anon.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING.",
}


class CloudStore:
    """Files of buckets and containers."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy

    def listed(self, address: Address) -> list[RemoteObject]:
        return with_retries(address.url, lambda: self._listed(address), self._policy)

    def _listed(self, address: Address) -> list[RemoteObject]:
        system, path = _system(address, self._policy)
        seconds = LISTING_SECONDS
        root = path[: len(path) - len(address.path)]
        if not address.is_pattern:
            if address.path and not address.path.endswith("/"):
                try:
                    info = self._call(address.url, address.scheme, system, "_info", path, seconds=seconds)
                    if info["type"] == "file":
                        return [_remote(address, address.path, info)]
                except MissingError:
                    pass  # a folder has no file of its own
            found = self._call(address.url, address.scheme, system, "_find", path, detail=True, seconds=seconds)
            inside = f"{path.rstrip('/')}/"  # and not those of another folder whose name begins alike
            entries = [info for info in found.values() if info["name"].startswith(inside)]
        else:
            folder = root + fixed_folder(address.path)
            if is_flat(address.path):
                entries = self._call(address.url, address.scheme, system, "_ls", folder, detail=True, seconds=seconds)
            else:
                found = self._call(address.url, address.scheme, system, "_find", folder, detail=True, seconds=seconds)
                entries = list(found.values())
        named = [(info["name"][len(root) :], info) for info in entries if info["type"] == "file"]
        return [
            _remote(address, name, info)
            for name, info in named
            if name and not name.endswith("/") and (not address.is_pattern or matches(address.path, name))
        ]

    def open(self, remote: RemoteObject, start: int, stop: int) -> Answer:
        return Answer(self._ranges(remote, start, stop))

    def _ranges(self, remote: RemoteObject, start: int, stop: int) -> Iterator[bytes]:
        address = Address.of(remote.url)
        system, path = _system(address, self._policy)
        while start < stop:
            end = min(stop, start + RANGE_BYTES)
            whole = start == 0 and end == remote.size  # then the store's own checksum is verified by its library
            options = {} if whole else {"start": start, "end": end}
            seconds = self._policy.silence_seconds + RANGE_BYTES / self._policy.slowest_bytes_per_second
            data = self._call(remote.url, address.scheme, system, "_cat_file", path, **options, seconds=seconds)
            if len(data) != end - start:
                self.confirmed(remote)
                raise AttemptError(f"the store sent {len(data):,} of {end - start:,} bytes")
            yield data
            start = end

    def confirmed(self, remote: RemoteObject) -> str | None:
        address = Address.of(remote.url)
        system, path = _system(address, self._policy)
        seconds = self._policy.connect_seconds + self._policy.silence_seconds
        if address.scheme == "s3":
            bucket, _, key = path.partition("/")
            info = self._call(
                remote.url, "s3", system, "_call_s3", "head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED",
                seconds=seconds,
            )  # fmt: skip
            version = _unquoted(info.get("ETag"))  # as in the listing
            found = RemoteObject(remote.url, info["ContentLength"], version, _checksum_of_s3(info))
        else:
            info = self._call(remote.url, address.scheme, system, "_info", path, refresh=True, seconds=seconds)
            found = _remote(address, address.path, info)
        if (found.size, found.version) != (remote.size, remote.version):
            raise remote.changed("it was replaced since it was listed (its version is another one)")
        return found.checksum

    def _call(self, url: str, scheme: str, system: Any, method: str, *args: Any, seconds: float, **options: Any) -> Any:
        """Result of a coroutine of a file system, within a time limit, with its failures told apart."""
        from fsspec.asyn import sync

        try:
            return sync(system.loop, getattr(system, method), *args, timeout=seconds, **options)
        except Exception as error:  # of three libraries, which have no base class in common
            raise _failure(error, url, scheme) from None


def _system(address: Address, policy: RetryPolicy) -> tuple[Any, str]:
    """File system of fsspec for an address, and the path in it.

    Raises:
        ConfigError: a package is missing.
        RemoteError: the credentials are missing or unsuitable.
    """
    try:
        return _file_system(address.scheme, address.root, address.url.partition("://")[0], policy), _path(address)
    except ImportError as error:
        raise missing_package(address, error) from None
    except ConfigError:
        raise
    except Exception as error:  # of three libraries
        failure = _failure(error, address.url, address.scheme)
        if isinstance(failure, AttemptError):
            raise RemoteError(address.url, f"{failure}", f"{_PUBLIC[address.scheme]} {CREDENTIALS}") from None
        raise failure from None


def missing_package(address: Address, error: ImportError) -> ConfigError:
    """Error for a package of the extra `cloud` that is not installed."""
    name = (error.name or PACKAGES[address.scheme]).partition(".")[0]
    return ConfigError(
        f"{address.shown}: reading {address.scheme}:// needs the package {name}: pip install 'loupe-vision[cloud]'"
    )


def _path(address: Address) -> str:
    container = address.root.partition("@")[0]
    return f"{container}/{address.path}"


@lru_cache(maxsize=16)
def _file_system(scheme: str, root: str, protocol: str, policy: RetryPolicy) -> Any:
    """File system with the time limits of the policy and without remembered listings."""
    import fsspec
    from fsspec.config import conf

    for name in ("gcsfs", "s3fs", "adlfs", "azure", "google"):  # failures are raised too
        logging.getLogger(name).addHandler(logging.NullHandler())

    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        # Requests are repeated above botocore too.
        limits: dict[str, Any] = {"retries": {"total_max_attempts": 2, "mode": "standard"}}
        limits |= {"connect_timeout": policy.connect_seconds, "read_timeout": policy.silence_seconds}
        options["config_kwargs"] = {**conf.get("s3", {}).get("config_kwargs", {}), **limits}
    elif scheme == "gs":
        options["requests_timeout"] = policy.silence_seconds
    else:
        options["connection_timeout"] = round(policy.connect_seconds)
        options["read_timeout"] = round(policy.silence_seconds)
    if scheme == "az" and "@" in root:  # abfs://container@account.dfs.core.windows.net
        options["account_name"] = root.partition("@")[2].partition(".")[0]
    return fsspec.filesystem(protocol, **options)


def _remote(address: Address, name: str, info: Mapping[str, Any]) -> RemoteObject:
    """File from the details that its file system gives."""
    url = f"{address.url[: len(address.url) - len(address.path)]}{name}"
    settings = info.get("content_settings") or {}
    if address.scheme == "s3":
        version, checksum = info.get("ETag"), None
    elif address.scheme == "gs":
        version = info.get("generation") or info.get("etag")
        checksum = checksums.of_base64("md5", info.get("md5Hash"))
    else:
        version = info.get("etag")
        digest = settings.get("content_md5")
        checksum = f"md5:{bytes(digest).hex()}" if digest else None
    return RemoteObject(url, int(info["size"] or 0), _unquoted(version), checksum)


def _unquoted(version: Any) -> str | None:
    return f"{version}".strip('"') if version else None


def _checksum_of_s3(info: Mapping[str, Any]) -> str | None:
    """Checksum of the whole object, unless it is one of checksums of its parts."""
    if info.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    found = (checksums.of_base64(name, info.get(f"Checksum{name.upper()}")) for name in ("sha256", "sha1", "crc32"))
    return next((each for each in found if each), None)


def _failure(error: Exception, url: str, scheme: str) -> Exception:
    """Error for a failure in a file system of fsspec or in the library below it."""
    chain = list(causes(error))
    names = {type(each).__name__ for each in chain}
    remedy = f"{_PUBLIC[scheme]} {CREDENTIALS}"
    status = next((code for each in chain if (code := _status(each)) is not None), None)
    if names & _NO_CREDENTIALS or any("connection_string or account_name" in f"{each}" for each in chain):
        return RemoteError(url, "no credentials were found", remedy)
    if names & _FORBIDDEN or status in {401, 403} or any(isinstance(each, PermissionError) for each in chain):
        return RefusedError(url, "access was refused", f"Check that you may read it. {remedy}")
    if status == 404 or any(isinstance(each, FileNotFoundError) for each in chain):
        return MissingError(url, "not found", "Check the address.")
    if any(isinstance(each, ImportError) for each in chain):
        return ConfigError(f"{url}: a package is missing: pip install 'loupe-vision[cloud]'")
    if "ParamValidationError" in names or (status is not None and 400 <= status < 500 and status not in {408, 429}):
        return RemoteError(url, f"the store refused the request: {redacted_text(f'{error}')}", "Check the address.")
    failure = network_error(error, url, f"the host of {scheme}://")
    if isinstance(failure, AttemptError) and "FSTimeoutError" in names:
        return AttemptError("the store did not answer within the time limit")
    return failure


def _status(error: BaseException) -> int | None:
    """Status of HTTP that an exception of botocore, gcsfs or Azure holds."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return code if isinstance(code, int) else None
    code = getattr(error, "status_code", None) or getattr(error, "code", None)
    return int(code) if isinstance(code, int) or (isinstance(code, str) and code.isdecimal()) else None
