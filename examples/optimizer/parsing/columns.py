"""Which column plays which role, over the names that providers give them."""

from collections.abc import Iterable, Mapping
from enum import StrEnum


class Role(StrEnum):
    """What a column of a usage log tells."""

    TIME = "time"
    MODEL = "model"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    REQUESTS = "requests"


REQUIRED = (Role.TIME, Role.MODEL, Role.INPUT_TOKENS, Role.OUTPUT_TOKENS)

# Names as `_plain` leaves them. Earlier names win: an export with a start and an end is read by its start.
_ALIASES: Mapping[Role, tuple[str, ...]] = {
    Role.TIME: (
        "timestamp",
        "time",
        "starttime",
        "starttimeiso",
        "startedat",
        "createdat",
        "created",
        "datetime",
        "requesttime",
        "eventtime",
        "timegenerated",
        "timestamputc",
        "usagedateutc",
        "usagedate",
        "date",
        "day",
    ),
    Role.MODEL: (
        "model",
        "modelid",
        "modelname",
        "modelversion",
        "providedmodelname",
        "responsemodel",
        "requestmodel",
        "modelgroup",
        "modeldeploymentname",
        "deploymentname",
        "snapshotid",
        "genairesponsemodel",
        "genairequestmodel",
    ),
    Role.INPUT_TOKENS: (
        "inputtokens",
        "prompttokens",
        "inputtokencount",
        "prompttokencount",
        "promptstokens",
        "tokensin",
        "inputusage",
        "usageinput",
        "usagedetailsinput",
        "usageinputtokens",
        "usageinputtokensnocache",
        "usageprompttokens",
        "ncontexttokenstotal",
        "processedprompttokens",
        "genaiusageinputtokens",
    ),
    Role.OUTPUT_TOKENS: (
        "outputtokens",
        "completiontokens",
        "outputtokencount",
        "candidatestokencount",
        "completiontokencount",
        "tokensout",
        "outputusage",
        "usageoutput",
        "usagedetailsoutput",
        "usageoutputtokens",
        "usagecompletiontokens",
        "ngeneratedtokenstotal",
        "generatedcompletiontokens",
        "generatedtokens",
        "genaiusageoutputtokens",
    ),
    Role.REQUESTS: ("nummodelrequests", "numrequests", "nrequests", "requestcount", "requests"),
}


def recognise(columns: Iterable[str]) -> dict[Role, str]:
    """The roles whose column is known by its name; a nested name counts whole first, then by its last part."""
    by_plain_name: dict[str, str] = {}
    nested: dict[str, str] = {}
    for column in columns:
        by_plain_name.setdefault(_plain(column), column)
        if "." in column:
            nested.setdefault(_plain(column.rpartition(".")[2]), column)
    names = nested | by_plain_name
    return {
        role: names[alias]
        for role, aliases in _ALIASES.items()
        if (alias := next((alias for alias in aliases if alias in names), None)) is not None
    }


def _plain(name: str) -> str:
    """Case, spaces, underscores and dots do not tell columns apart."""
    return "".join(character for character in name.casefold() if character.isalnum())
