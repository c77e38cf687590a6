/* The driver, which PyTorch loads by the name of libcuda.so.1: one device, one context, every call succeeds.
 *
 * By the name of libnvidia-ml.so.1 it is NVML too. */
#define SUCCEEDS(function) \
  int function() { return 0; }
SUCCEEDS(cuInit)
SUCCEEDS(cuCtxSetCurrent)
SUCCEEDS(cuModuleLoad)
SUCCEEDS(cuModuleLoadData)
SUCCEEDS(cuModuleLoadDataEx)
SUCCEEDS(cuModuleUnload)
SUCCEEDS(cuModuleGetFunction)
SUCCEEDS(cuLinkCreate_v2)
SUCCEEDS(cuLinkAddData_v2)
SUCCEEDS(cuLinkComplete)
SUCCEEDS(cuFuncSetCacheConfig)
SUCCEEDS(cuFuncSetAttribute)
SUCCEEDS(cuTensorMapEncodeTiled)
SUCCEEDS(cuLaunchKernel)
SUCCEEDS(cuLaunchCooperativeKernel)

static long context[16];

static int set_int(int *value, int to) {
  *value = to;
  return 0;
}

int cuDriverGetVersion(int *version) { return set_int(version, 13000); }
int cuDeviceGet(int *device, int number) { return set_int(device, number); }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return set_int(value, 1); }
int cuFuncGetAttribute(int *value, int attribute, void *function) { return set_int(value, 1); }
int cuPointerGetAttribute(int *value, int attribute, unsigned long long pointer) { return set_int(value, 0); }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, unsigned long shared) {
  return set_int(blocks, 2);
}

int cuCtxGetCurrent(void **current) {
  *current = context;
  return 0;
}

int cuDevicePrimaryCtxRetain(void **retained, int device) { return cuCtxGetCurrent(retained); }

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
  *flags = 0;
  return set_int(is_active, 1);
}

int cuGetErrorString(int error, const char **text) {
  *text = "an error of the driver that is not there";
  return 0;
}

/* NVML: what PyTorch asks before memory grows in place, and when it runs out. */

SUCCEEDS(nvmlInit_v2)
SUCCEEDS(nvmlDeviceGetHandleByPciBusId_v2)
SUCCEEDS(nvmlDeviceGetNvLinkRemoteDeviceType)
SUCCEEDS(nvmlDeviceGetNvLinkRemotePciInfo_v2)
SUCCEEDS(nvmlDeviceGetGpuFabricInfoV)

int nvmlSystemGetCudaDriverVersion_v2(int *version) { return cuDriverGetVersion(version); }
int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *count, void *processes) {
  *count = 0;
  return 0;
}
