"""Regions of shared memory that the processes of one hive read and write; see docs/shm.md.

One writer per region, many readers, no locks. Everything an importer may use is listed here; the rest is private.
"""

from __future__ import annotations

from skep_shm.channel_key import channel_key
from skep_shm.channels import ChannelsReader, ChannelsWriter
from skep_shm.config import ConfigReader, ConfigWriter
from skep_shm.errors import RegionCode, RegionError
from skep_shm.ilks import IlksReader, IlksWriter
from skep_shm.layouts import VERSION, RegionKind
from skep_shm.nodes import NodesReader, NodesWriter, nodes_readers
from skep_shm.policy import PolicyReader, PolicyWriter
from skep_shm.records import RecordsReader, RecordsWriter
from skep_shm.segment import hive_prefix, region_path
from skep_shm.tenants import TenantsReader, TenantsWriter
from skep_shm.threads import ThreadsReader, ThreadsWriter
from skep_shm.types import (
    Binding,
    Change,
    ChangeKind,
    ChannelRecord,
    ConfigState,
    Grant,
    Header,
    IlkKind,
    IlkMode,
    IlkRecord,
    MatchKind,
    NodeRecord,
    PolicyState,
    PolicyStatus,
    Record,
    RecordKind,
    Registration,
    Route,
    RouteAction,
    SealStatus,
    Subtype,
    TenantRecord,
    TenantStatus,
    VpnRule,
)

__all__ = [
    "VERSION",
    "RegionKind",
    "RegionCode",
    "RegionError",
    "hive_prefix",
    "region_path",
    "NodeRecord",
    "NodesWriter",
    "NodesReader",
    "nodes_readers",
    "Change",
    "ChangeKind",
    "Header",
    "ConfigState",
    "Route",
    "MatchKind",
    "RouteAction",
    "VpnRule",
    "Grant",
    "IlkMode",
    "ConfigWriter",
    "ConfigReader",
    "Binding",
    "ThreadsWriter",
    "ThreadsReader",
    "Record",
    "RecordKind",
    "RecordsWriter",
    "RecordsReader",
    "PolicyState",
    "PolicyStatus",
    "PolicyWriter",
    "PolicyReader",
    "IlkRecord",
    "IlkKind",
    "Subtype",
    "Registration",
    "SealStatus",
    "TenantRecord",
    "TenantStatus",
    "ChannelRecord",
    "IlksWriter",
    "IlksReader",
    "TenantsWriter",
    "TenantsReader",
    "ChannelsWriter",
    "ChannelsReader",
    "channel_key",
]
