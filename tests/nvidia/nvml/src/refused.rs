//! The rest of NVML: no GPU here can do it, or nobody may. The functions are there, as in the
//! real library, and answer `NVML_ERROR_NOT_SUPPORTED` (or what is wrong with the device).

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::*;

use crate::abi::*;
use crate::state::Device;

/// For the device that it is asked about.
fn no(_device: &Device) -> Answer {
    Err(NOT_SUPPORTED)
}

exports! {
    about nvmlDeviceGetModuleId(device: nvmlDevice_t, _a: *mut c_uint) { no(&device) }
    about nvmlDeviceGetC2cModeInfoV(
        device: nvmlDevice_t,
        _a: *mut nvmlC2cModeInfo_v1_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetAddressingMode(
        device: nvmlDevice_t,
        _a: *mut nvmlDeviceAddressingMode_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetRepairStatus(
        device: nvmlDevice_t,
        _a: *mut nvmlRepairStatus_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetBoardPartNumber(
        device: nvmlDevice_t,
        _a: *mut c_char,
        _b: c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceGetGpcClkVfOffset(device: nvmlDevice_t, _a: *mut c_int) { no(&device) }
    about nvmlDeviceGetAutoBoostedClocksEnabled(
        device: nvmlDevice_t,
        _a: *mut nvmlEnableState_t,
        _b: *mut nvmlEnableState_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetFanSpeedRPM(device: nvmlDevice_t, _a: *mut nvmlFanSpeedInfo_t) { no(&device) }
    about nvmlDeviceGetFanControlPolicy_v2(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: *mut nvmlFanControlPolicy_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetCoolerInfo(device: nvmlDevice_t, _a: *mut nvmlCoolerInfo_t) { no(&device) }
    about nvmlDeviceGetThermalSettings(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: *mut nvmlGpuThermalSettings_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetDynamicPstatesInfo(
        device: nvmlDevice_t,
        _a: *mut nvmlGpuDynamicPstatesInfo_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetMemClkVfOffset(device: nvmlDevice_t, _a: *mut c_int) { no(&device) }
    about nvmlDeviceGetMinMaxClockOfPState(
        device: nvmlDevice_t,
        _a: nvmlClockType_t,
        _b: nvmlPstates_t,
        _c: *mut c_uint,
        _d: *mut c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceGetSupportedPerformanceStates(
        device: nvmlDevice_t,
        _a: *mut nvmlPstates_t,
        _b: c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceGetGpcClkMinMaxVfOffset(
        device: nvmlDevice_t,
        _a: *mut c_int,
        _b: *mut c_int
    ) {
        no(&device)
    }
    about nvmlDeviceGetMemClkMinMaxVfOffset(
        device: nvmlDevice_t,
        _a: *mut c_int,
        _b: *mut c_int
    ) {
        no(&device)
    }
    about nvmlDeviceGetClockOffsets(device: nvmlDevice_t, _a: *mut nvmlClockOffset_t) { no(&device) }
    about nvmlDeviceSetClockOffsets(device: nvmlDevice_t, _a: *mut nvmlClockOffset_t) { no(&device) }
    about nvmlDeviceGetPerformanceModes(
        device: nvmlDevice_t,
        _a: *mut nvmlDevicePerfModes_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetCurrentClockFreqs(
        device: nvmlDevice_t,
        _a: *mut nvmlDeviceCurrentClockFreqs_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetPowerMizerMode_v1(
        device: nvmlDevice_t,
        _a: *mut nvmlDevicePowerMizerModes_v1_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetPowerMizerMode_v1(
        device: nvmlDevice_t,
        _a: *mut nvmlDevicePowerMizerModes_v1_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetGpuOperationMode(
        device: nvmlDevice_t,
        _a: *mut nvmlGpuOperationMode_t,
        _b: *mut nvmlGpuOperationMode_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetDramEncryptionMode(
        device: nvmlDevice_t,
        _a: *mut nvmlDramEncryptionInfo_t,
        _b: *mut nvmlDramEncryptionInfo_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetDramEncryptionMode(
        device: nvmlDevice_t,
        _a: *const nvmlDramEncryptionInfo_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetEncoderCapacity(
        device: nvmlDevice_t,
        _a: nvmlEncoderType_t,
        _b: *mut c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceGetDriverModel_v2(
        device: nvmlDevice_t,
        _a: *mut nvmlDriverModel_t,
        _b: *mut nvmlDriverModel_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetBridgeChipInfo(
        device: nvmlDevice_t,
        _a: *mut nvmlBridgeChipHierarchy_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetSamples(
        device: nvmlDevice_t,
        _a: nvmlSamplingType_t,
        _b: c_ulonglong,
        _c: *mut nvmlValueType_t,
        _d: *mut c_uint,
        _e: *mut nvmlSample_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetViolationStatus(
        device: nvmlDevice_t,
        _a: nvmlPerfPolicyType_t,
        _b: *mut nvmlViolationTime_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetMemoryBusWidth(device: nvmlDevice_t, _a: *mut c_uint) { no(&device) }
    about nvmlDeviceGetConfComputeMemSizeInfo(
        device: nvmlDevice_t,
        _a: *mut nvmlConfComputeMemSizeInfo_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetConfComputeProtectedMemoryUsage(
        device: nvmlDevice_t,
        _a: *mut nvmlMemory_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetConfComputeGpuCertificate(
        device: nvmlDevice_t,
        _a: *mut nvmlConfComputeGpuCertificate_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetConfComputeGpuAttestationReport(
        device: nvmlDevice_t,
        _a: *mut nvmlConfComputeGpuAttestationReport_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetConfComputeUnprotectedMemSize(
        device: nvmlDevice_t,
        _a: c_ulonglong
    ) {
        no(&device)
    }
    about nvmlDeviceGetSramEccErrorStatus(
        device: nvmlDevice_t,
        _a: *mut nvmlEccSramErrorStatus_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetPowerManagementLimit_v2(
        device: nvmlDevice_t,
        _a: *mut nvmlPowerValue_v2_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetAccountingStats(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: *mut nvmlAccountingStats_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetClkMonStatus(
        device: nvmlDevice_t,
        _a: *mut nvmlClkMonStatus_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetPlatformInfo(
        device: nvmlDevice_t,
        _a: *mut nvmlPlatformInfo_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetPdi(device: nvmlDevice_t, _a: *mut nvmlPdi_t) { no(&device) }
    about nvmlDeviceSetPersistenceMode(device: nvmlDevice_t, _a: nvmlEnableState_t) { no(&device) }
    about nvmlDeviceSetComputeMode(device: nvmlDevice_t, _a: nvmlComputeMode_t) { no(&device) }
    about nvmlDeviceSetEccMode(device: nvmlDevice_t, _a: nvmlEnableState_t) { no(&device) }
    about nvmlDeviceClearEccErrorCounts(
        device: nvmlDevice_t,
        _a: nvmlEccCounterType_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetDriverModel(
        device: nvmlDevice_t,
        _a: nvmlDriverModel_t,
        _b: c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceSetGpuLockedClocks(device: nvmlDevice_t, _a: c_uint, _b: c_uint) { no(&device) }
    about nvmlDeviceSetMemoryLockedClocks(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceSetApplicationsClocks(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceSetAutoBoostedClocksEnabled(
        device: nvmlDevice_t,
        _a: nvmlEnableState_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetDefaultAutoBoostedClocksEnabled(
        device: nvmlDevice_t,
        _a: nvmlEnableState_t,
        _b: c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceSetDefaultFanSpeed_v2(device: nvmlDevice_t, _a: c_uint) { no(&device) }
    about nvmlDeviceSetFanControlPolicy(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: nvmlFanControlPolicy_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetTemperatureThreshold(
        device: nvmlDevice_t,
        _a: nvmlTemperatureThresholds_t,
        _b: *mut c_int
    ) {
        no(&device)
    }
    about nvmlDeviceSetPowerManagementLimit(device: nvmlDevice_t, _a: c_uint) { no(&device) }
    about nvmlDeviceSetGpuOperationMode(
        device: nvmlDevice_t,
        _a: nvmlGpuOperationMode_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetAPIRestriction(
        device: nvmlDevice_t,
        _a: nvmlRestrictedAPI_t,
        _b: nvmlEnableState_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetFanSpeed_v2(device: nvmlDevice_t, _a: c_uint, _b: c_uint) { no(&device) }
    about nvmlDeviceSetGpcClkVfOffset(device: nvmlDevice_t, _a: c_int) { no(&device) }
    about nvmlDeviceSetMemClkVfOffset(device: nvmlDevice_t, _a: c_int) { no(&device) }
    about nvmlDeviceSetAccountingMode(device: nvmlDevice_t, _a: nvmlEnableState_t) { no(&device) }
    about nvmlDeviceResetNvLinkErrorCounters(device: nvmlDevice_t, _a: c_uint) { no(&device) }
    about nvmlDeviceSetNvLinkUtilizationControl(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: c_uint,
        _c: *mut nvmlNvLinkUtilizationControl_t,
        _d: c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceGetNvLinkUtilizationControl(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: c_uint,
        _c: *mut nvmlNvLinkUtilizationControl_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetNvLinkUtilizationCounter(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: c_uint,
        _c: *mut c_ulonglong,
        _d: *mut c_ulonglong
    ) {
        no(&device)
    }
    about nvmlDeviceFreezeNvLinkUtilizationCounter(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: c_uint,
        _c: nvmlEnableState_t
    ) {
        no(&device)
    }
    about nvmlDeviceResetNvLinkUtilizationCounter(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceSetNvLinkDeviceLowPowerThreshold(
        device: nvmlDevice_t,
        _a: *mut nvmlNvLinkPowerThres_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetNvlinkSupportedBwModes(
        device: nvmlDevice_t,
        _a: *mut nvmlNvlinkSupportedBwModes_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetNvlinkBwMode(
        device: nvmlDevice_t,
        _a: *mut nvmlNvlinkGetBwMode_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetNvlinkBwMode(
        device: nvmlDevice_t,
        _a: *mut nvmlNvlinkSetBwMode_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetNvLinkInfo(device: nvmlDevice_t, _a: *mut nvmlNvLinkInfo_t) { no(&device) }
    about nvmlDeviceClearFieldValues(
        device: nvmlDevice_t,
        _a: c_int,
        _b: *mut nvmlFieldValue_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetHostVgpuMode(
        device: nvmlDevice_t,
        _a: *mut nvmlHostVgpuMode_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetVirtualizationMode(
        device: nvmlDevice_t,
        _a: nvmlGpuVirtualizationMode_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuHeterogeneousMode(
        device: nvmlDevice_t,
        _a: *mut nvmlVgpuHeterogeneousMode_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetVgpuHeterogeneousMode(
        device: nvmlDevice_t,
        _a: *const nvmlVgpuHeterogeneousMode_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuTypeSupportedPlacements(
        device: nvmlDevice_t,
        _a: nvmlVgpuTypeId_t,
        _b: *mut nvmlVgpuPlacementList_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuTypeCreatablePlacements(
        device: nvmlDevice_t,
        _a: nvmlVgpuTypeId_t,
        _b: *mut nvmlVgpuPlacementList_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetVgpuCapabilities(
        device: nvmlDevice_t,
        _a: nvmlDeviceVgpuCapability_t,
        _b: nvmlEnableState_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetGridLicensableFeatures_v4(
        device: nvmlDevice_t,
        _a: *mut nvmlGridLicensableFeatures_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuCapabilities(
        device: nvmlDevice_t,
        _a: nvmlDeviceVgpuCapability_t,
        _b: *mut c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceGetSupportedVgpus(
        device: nvmlDevice_t,
        _a: *mut c_uint,
        _b: *mut nvmlVgpuTypeId_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetCreatableVgpus(
        device: nvmlDevice_t,
        _a: *mut c_uint,
        _b: *mut nvmlVgpuTypeId_t
    ) {
        no(&device)
    }
    about nvmlVgpuTypeGetMaxInstances(
        device: nvmlDevice_t,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceGetActiveVgpus(
        device: nvmlDevice_t,
        _a: *mut c_uint,
        _b: *mut nvmlVgpuInstance_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuMetadata(
        device: nvmlDevice_t,
        _a: *mut nvmlVgpuPgpuMetadata_t,
        _b: *mut c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceGetPgpuMetadataString(
        device: nvmlDevice_t,
        _a: *mut c_char,
        _b: *mut c_uint
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuSchedulerLog(
        device: nvmlDevice_t,
        _a: *mut nvmlVgpuSchedulerLog_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuSchedulerState(
        device: nvmlDevice_t,
        _a: *mut nvmlVgpuSchedulerGetState_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuSchedulerCapabilities(
        device: nvmlDevice_t,
        _a: *mut nvmlVgpuSchedulerCapabilities_t
    ) {
        no(&device)
    }
    about nvmlDeviceSetVgpuSchedulerState(
        device: nvmlDevice_t,
        _a: *mut nvmlVgpuSchedulerSetState_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuUtilization(
        device: nvmlDevice_t,
        _a: c_ulonglong,
        _b: *mut nvmlValueType_t,
        _c: *mut c_uint,
        _d: *mut nvmlVgpuInstanceUtilizationSample_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuInstancesUtilizationInfo(
        device: nvmlDevice_t,
        _a: *mut nvmlVgpuInstancesUtilizationInfo_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuProcessUtilization(
        device: nvmlDevice_t,
        _a: c_ulonglong,
        _b: *mut c_uint,
        _c: *mut nvmlVgpuProcessUtilizationSample_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetVgpuProcessesUtilizationInfo(
        device: nvmlDevice_t,
        _a: *mut nvmlVgpuProcessesUtilizationInfo_t
    ) {
        no(&device)
    }
    about nvmlDeviceReadWritePRM_v1(device: nvmlDevice_t, _a: *mut nvmlPRMTLV_v1_t) { no(&device) }
    about nvmlGpmSampleGet(device: nvmlDevice_t, _a: nvmlGpmSample_t) { no(&device) }
    about nvmlGpmMigSampleGet(device: nvmlDevice_t, _a: c_uint, _b: nvmlGpmSample_t) { no(&device) }
    about nvmlGpmQueryDeviceSupport(device: nvmlDevice_t, _a: *mut nvmlGpmSupport_t) { no(&device) }
    about nvmlGpmQueryIfStreamingEnabled(device: nvmlDevice_t, _a: *mut c_uint) { no(&device) }
    about nvmlGpmSetStreamingEnabled(device: nvmlDevice_t, _a: c_uint) { no(&device) }
    about nvmlDeviceWorkloadPowerProfileGetProfilesInfo(
        device: nvmlDevice_t,
        _a: *mut nvmlWorkloadPowerProfileProfilesInfo_t
    ) {
        no(&device)
    }
    about nvmlDeviceWorkloadPowerProfileGetCurrentProfiles(
        device: nvmlDevice_t,
        _a: *mut nvmlWorkloadPowerProfileCurrentProfiles_t
    ) {
        no(&device)
    }
    about nvmlDeviceWorkloadPowerProfileSetRequestedProfiles(
        device: nvmlDevice_t,
        _a: *mut nvmlWorkloadPowerProfileRequestedProfiles_t
    ) {
        no(&device)
    }
    about nvmlDeviceWorkloadPowerProfileClearRequestedProfiles(
        device: nvmlDevice_t,
        _a: *mut nvmlWorkloadPowerProfileRequestedProfiles_t
    ) {
        no(&device)
    }
    about nvmlDevicePowerSmoothingActivatePresetProfile(
        device: nvmlDevice_t,
        _a: *mut nvmlPowerSmoothingProfile_t
    ) {
        no(&device)
    }
    about nvmlDevicePowerSmoothingUpdatePresetProfileParam(
        device: nvmlDevice_t,
        _a: *mut nvmlPowerSmoothingProfile_t
    ) {
        no(&device)
    }
    about nvmlDevicePowerSmoothingSetState(
        device: nvmlDevice_t,
        _a: *mut nvmlPowerSmoothingState_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts(
        device: nvmlDevice_t,
        _a: *mut nvmlEccSramUniqueUncorrectedErrorCounts_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetNvLinkRemotePciInfo(
        device: nvmlDevice_t,
        _a: c_uint,
        _b: *mut nvmlPciInfo_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetGridLicensableFeatures(
        device: nvmlDevice_t,
        _a: *mut nvmlGridLicensableFeatures_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetGridLicensableFeatures_v2(
        device: nvmlDevice_t,
        _a: *mut nvmlGridLicensableFeatures_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetGridLicensableFeatures_v3(
        device: nvmlDevice_t,
        _a: *mut nvmlGridLicensableFeatures_t
    ) {
        no(&device)
    }
    about nvmlDeviceGetDriverModel(
        device: nvmlDevice_t,
        _a: *mut nvmlDriverModel_t,
        _b: *mut nvmlDriverModel_t
    ) {
        no(&device)
    }
    system nvmlUnitGetHandleByIndex(_call, _a: c_uint, _b: *mut nvmlUnit_t) { Err(NOT_SUPPORTED) }
    system nvmlUnitGetUnitInfo(_call, _a: nvmlUnit_t, _b: *mut nvmlUnitInfo_t) { Err(NOT_SUPPORTED) }
    system nvmlUnitGetLedState(_call, _a: nvmlUnit_t, _b: *mut nvmlLedState_t) { Err(NOT_SUPPORTED) }
    system nvmlUnitGetPsuInfo(_call, _a: nvmlUnit_t, _b: *mut nvmlPSUInfo_t) { Err(NOT_SUPPORTED) }
    system nvmlUnitGetTemperature(
        _call,
        _a: nvmlUnit_t,
        _b: c_uint,
        _c: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlUnitGetFanSpeedInfo(
        _call,
        _a: nvmlUnit_t,
        _b: *mut nvmlUnitFanSpeeds_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlUnitGetDevices(
        _call,
        _a: nvmlUnit_t,
        _b: *mut c_uint,
        _c: *mut nvmlDevice_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlSystemGetConfComputeCapabilities(
        _call,
        _a: *mut nvmlConfComputeSystemCaps_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlSystemGetConfComputeState(
        _call,
        _a: *mut nvmlConfComputeSystemState_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlSystemGetConfComputeGpusReadyState(_call, _a: *mut c_uint) { Err(NOT_SUPPORTED) }
    system nvmlSystemGetConfComputeKeyRotationThresholdInfo(
        _call,
        _a: *mut nvmlConfComputeGetKeyRotationThresholdInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlSystemSetConfComputeGpusReadyState(_call, _a: c_uint) { Err(NOT_SUPPORTED) }
    system nvmlSystemSetConfComputeKeyRotationThresholdInfo(
        _call,
        _a: *mut nvmlConfComputeSetKeyRotationThresholdInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlSystemGetConfComputeSettings(
        _call,
        _a: *mut nvmlSystemConfComputeSettings_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlUnitSetLedState(_call, _a: nvmlUnit_t, _b: nvmlLedColor_t) { Err(NOT_SUPPORTED) }
    system nvmlSystemSetNvlinkBwMode(_call, _a: c_uint) { Err(NOT_SUPPORTED) }
    system nvmlSystemGetNvlinkBwMode(_call, _a: *mut c_uint) { Err(NOT_SUPPORTED) }
    system nvmlSystemEventSetCreate(
        _call,
        _a: *mut nvmlSystemEventSetCreateRequest_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlSystemEventSetFree(
        _call,
        _a: *mut nvmlSystemEventSetFreeRequest_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlSystemRegisterEvents(
        _call,
        _a: *mut nvmlSystemRegisterEventRequest_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlSystemEventSetWait(
        _call,
        _a: *mut nvmlSystemEventSetWaitRequest_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlDeviceModifyDrainState(
        _call,
        _a: *mut nvmlPciInfo_t,
        _b: nvmlEnableState_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlDeviceQueryDrainState(
        _call,
        _a: *mut nvmlPciInfo_t,
        _b: *mut nvmlEnableState_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlDeviceRemoveGpu_v2(
        _call,
        _a: *mut nvmlPciInfo_t,
        _b: nvmlDetachGpuState_t,
        _c: nvmlPcieLinkState_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlDeviceDiscoverGpus(_call, _a: *mut nvmlPciInfo_t) { Err(NOT_SUPPORTED) }
    system nvmlVgpuInstanceGetPlacementId(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut nvmlVgpuPlacementId_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetGspHeapSize(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_ulonglong
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetFbReservation(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_ulonglong
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetRuntimeStateSize(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut nvmlVgpuRuntimeState_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGetVgpuDriverCapabilities(
        _call,
        _a: nvmlVgpuDriverCapability_t,
        _b: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetClass(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_char,
        _c: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetName(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_char,
        _c: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetGpuInstanceProfileId(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetDeviceID(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_ulonglong,
        _c: *mut c_ulonglong
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetFramebufferSize(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_ulonglong
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetNumDisplayHeads(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetResolution(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: c_uint,
        _c: *mut c_uint,
        _d: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetLicense(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_char,
        _c: c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetFrameRateLimit(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetMaxInstancesPerVm(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetBAR1Info(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: *mut nvmlVgpuTypeBar1Info_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetVmID(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_char,
        _c: c_uint,
        _d: *mut nvmlVgpuVmIdType_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetUUID(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_char,
        _c: c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetVmDriverVersion(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_char,
        _c: c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetFbUsage(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_ulonglong
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetLicenseStatus(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetType(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut nvmlVgpuTypeId_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetFrameRateLimit(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetEccMode(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut nvmlEnableState_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetEncoderCapacity(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceSetEncoderCapacity(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetEncoderStats(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_uint,
        _c: *mut c_uint,
        _d: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetEncoderSessions(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_uint,
        _c: *mut nvmlEncoderSessionInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetFBCStats(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut nvmlFBCStats_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetFBCSessions(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_uint,
        _c: *mut nvmlFBCSessionInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetGpuInstanceId(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetGpuPciId(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_char,
        _c: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetCapabilities(
        _call,
        _a: nvmlVgpuTypeId_t,
        _b: nvmlVgpuCapability_t,
        _c: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetMdevUUID(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_char,
        _c: c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceGetCreatableVgpus(
        _call,
        _a: nvmlGpuInstance_t,
        _b: *mut nvmlVgpuTypeIdInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuTypeGetMaxInstancesPerGpuInstance(
        _call,
        _a: *mut nvmlVgpuTypeMaxInstance_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceGetActiveVgpus(
        _call,
        _a: nvmlGpuInstance_t,
        _b: *mut nvmlActiveVgpuInstanceInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceSetVgpuSchedulerState(
        _call,
        _a: nvmlGpuInstance_t,
        _b: *mut nvmlVgpuSchedulerState_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceGetVgpuSchedulerState(
        _call,
        _a: nvmlGpuInstance_t,
        _b: *mut nvmlVgpuSchedulerStateInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceGetVgpuSchedulerLog(
        _call,
        _a: nvmlGpuInstance_t,
        _b: *mut nvmlVgpuSchedulerLogInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceGetVgpuTypeCreatablePlacements(
        _call,
        _a: nvmlGpuInstance_t,
        _b: *mut nvmlVgpuCreatablePlacementInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceGetVgpuHeterogeneousMode(
        _call,
        _a: nvmlGpuInstance_t,
        _b: *mut nvmlVgpuHeterogeneousMode_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceSetVgpuHeterogeneousMode(
        _call,
        _a: nvmlGpuInstance_t,
        _b: *const nvmlVgpuHeterogeneousMode_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetMetadata(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut nvmlVgpuMetadata_t,
        _c: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGetVgpuCompatibility(
        _call,
        _a: *mut nvmlVgpuMetadata_t,
        _b: *mut nvmlVgpuPgpuMetadata_t,
        _c: *mut nvmlVgpuPgpuCompatibility_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGetVgpuVersion(
        _call,
        _a: *mut nvmlVgpuVersion_t,
        _b: *mut nvmlVgpuVersion_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlSetVgpuVersion(_call, _a: *mut nvmlVgpuVersion_t) { Err(NOT_SUPPORTED) }
    system nvmlVgpuInstanceGetAccountingMode(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut nvmlEnableState_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetAccountingPids(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut c_uint,
        _c: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceGetAccountingStats(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: c_uint,
        _c: *mut nvmlAccountingStats_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlVgpuInstanceClearAccountingPids(_call, _a: nvmlVgpuInstance_t) { Err(NOT_SUPPORTED) }
    system nvmlVgpuInstanceGetLicenseInfo_v2(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut nvmlVgpuLicenseInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGetExcludedDeviceInfoByIndex(
        _call,
        _a: c_uint,
        _b: *mut nvmlExcludedDeviceInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceGetComputeInstancePossiblePlacements(
        _call,
        _a: nvmlGpuInstance_t,
        _b: c_uint,
        _c: *mut nvmlComputeInstancePlacement_t,
        _d: *mut c_uint
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpuInstanceCreateComputeInstanceWithPlacement(
        _call,
        _a: nvmlGpuInstance_t,
        _b: c_uint,
        _c: *const nvmlComputeInstancePlacement_t,
        _d: *mut nvmlComputeInstance_t
    ) {
        Err(NOT_SUPPORTED)
    }
    system nvmlGpmMetricsGet(_call, _a: *mut nvmlGpmMetricsGet_t) { Err(NOT_SUPPORTED) }
    system nvmlGpmSampleFree(_call, _a: nvmlGpmSample_t) { Err(NOT_SUPPORTED) }
    system nvmlGpmSampleAlloc(_call, _a: *mut nvmlGpmSample_t) { Err(NOT_SUPPORTED) }
    system nvmlDeviceRemoveGpu(_call, _a: *mut nvmlPciInfo_t) { Err(NOT_SUPPORTED) }
    system nvmlVgpuInstanceGetLicenseInfo(
        _call,
        _a: nvmlVgpuInstance_t,
        _b: *mut nvmlVgpuLicenseInfo_t
    ) {
        Err(NOT_SUPPORTED)
    }
}
