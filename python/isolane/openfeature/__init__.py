"""isolane's flags behind any OpenFeature client.

```python
openfeature.api.set_provider(IsolaneProvider(flags))
```

The other way round, a client of OpenFeature as the source of isolane's flags, is
``isolane.migration.flags.OpenFeatureSource``.
"""

try:
    from isolane.openfeature.provider import IsolaneProvider, context_of_run
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "openfeature":
        raise
    raise ModuleNotFoundError(
        f"isolane.openfeature needs {error.name}, which is not installed: pip install 'isolane[openfeature]'",
        name=error.name,
    ) from error

__all__ = ["IsolaneProvider", "context_of_run"]
