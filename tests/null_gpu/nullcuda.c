/* A CUDA runtime and a cuBLAS for machines without a GPU: every call succeeds and no kernel runs.
 *
 * Preloaded, it takes the place of libcudart, libcublas and libcublasLt, and PyTorch's CUDA build finds one H100.
 * Devices, dtypes, dispatch, streams and the caching allocator are PyTorch's own; what is read back is always zero.
 * It counts kernel launches, and reports every call that makes the host wait for the device.
 * shim.py compiles it, together with a stub for each further symbol that PyTorch's libraries want. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cuda_runtime_api.h>

#define DRIVER_OUT_OF_MEMORY 2
#define DEVICE_BYTES (79ull << 30)
#define PAGE (2ull << 20)

/* Counting: launches by number, waits by a callback into Python. */

static long num_launches;
static int is_capturing;
static cudaStream_t capturing; /* the stream whose work a graph takes */
static void (*on_wait)(const char *call);

long null_launches(void) { return __atomic_load_n(&num_launches, __ATOMIC_RELAXED); }
void null_on_wait(void (*callback)(const char *call)) { on_wait = callback; }

static int captures(cudaStream_t stream) { return is_capturing && stream == capturing; }

/* What a graph captures runs when the graph is launched, and counts there as one. */
static int launch(cudaStream_t stream) {
  if (!captures(stream)) __atomic_add_fetch(&num_launches, 1, __ATOMIC_RELAXED);
  return 0;
}

/* A thread that Python does not know, such as one of gloo's, cannot call into Python. */
static cudaError_t wait_for_device(const char *call, int is_captured) {
  static void *(*thread_state)(void);
  if (!thread_state) thread_state = (void *(*)(void))dlsym(RTLD_DEFAULT, "PyGILState_GetThisThreadState");
  if (on_wait && thread_state && thread_state()) on_wait(call);
  return is_captured ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

/* Memory: a device's is address space that nothing touches, so that a model of any size fits; the host's is real. */

enum { PAGEABLE, PINNED, DEVICE };
typedef struct {
  char *start;
  size_t num_bytes;
  int kind;
} Range;
static Range ranges[1 << 16];
static int num_ranges;
static size_t device_bytes_used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void remember(void *start, size_t num_bytes, int kind) {
  pthread_mutex_lock(&lock);
  int place = 0;
  while (place < num_ranges && ranges[place].start) place++;
  if (place == num_ranges) num_ranges++;
  ranges[place] = (Range){start, num_bytes, kind};
  pthread_mutex_unlock(&lock);
}

static size_t forget(void *start) {
  size_t num_bytes = 0;
  pthread_mutex_lock(&lock);
  for (int place = 0; place < num_ranges; place++)
    if (ranges[place].start == start) {
      num_bytes = ranges[place].num_bytes;
      ranges[place].start = NULL;
    }
  pthread_mutex_unlock(&lock);
  return num_bytes;
}

static int kind_of(const void *pointer) {
  int kind = PAGEABLE;
  pthread_mutex_lock(&lock);
  for (int place = 0; place < num_ranges; place++) {
    Range range = ranges[place];
    if (range.start && (char *)pointer >= range.start && (char *)pointer < range.start + range.num_bytes) kind = range.kind;
  }
  pthread_mutex_unlock(&lock);
  return kind;
}

static int reserve(void **pointer, size_t num_bytes) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void *start = mmap(NULL, num_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (start == MAP_FAILED) return 0;
  remember(start, num_bytes, DEVICE);
  *pointer = start;
  return 1;
}

cudaError_t cudaMalloc(void **pointer, size_t num_bytes) {
  num_bytes = (num_bytes + PAGE - 1) & ~(PAGE - 1);
  if (device_bytes_used + num_bytes > DEVICE_BYTES) return cudaErrorMemoryAllocation;
  if (!reserve(pointer, num_bytes)) return cudaErrorMemoryAllocation;
  device_bytes_used += num_bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void *pointer) {
  size_t num_bytes = pointer ? forget(pointer) : 0;
  device_bytes_used -= num_bytes;
  if (num_bytes) munmap(pointer, num_bytes);
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **pointer, size_t num_bytes, unsigned flags) {
  if (posix_memalign(pointer, 4096, num_bytes ? num_bytes : 1)) return cudaErrorMemoryAllocation;
  remember(*pointer, num_bytes, PINNED);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void **pointer, size_t num_bytes) { return cudaHostAlloc(pointer, num_bytes, 0); }

cudaError_t cudaFreeHost(void *pointer) {
  forget(pointer);
  free(pointer);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void *pointer, size_t num_bytes, unsigned flags) {
  remember(pointer, num_bytes, PINNED);
  return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *pointer) {
  forget(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  *available = DEVICE_BYTES - device_bytes_used;
  *total = DEVICE_BYTES;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
  int kind = kind_of(pointer);
  memset(attributes, 0, sizeof *attributes);
  attributes->type = kind == PINNED   ? cudaMemoryTypeHost
                     : kind == DEVICE ? cudaMemoryTypeDevice
                                      : cudaMemoryTypeUnregistered;
  attributes->devicePointer = kind == PAGEABLE ? NULL : (void *)pointer;
  attributes->hostPointer = kind == PINNED ? (void *)pointer : NULL;
  return cudaSuccess;
}

/* Memory that grows in place (expandable segments): address space first, then as much of it as is created. */

static int address_reserve(void **pointer, size_t num_bytes, size_t alignment, void *address, unsigned long long flags) {
  return reserve(pointer, num_bytes) ? 0 : DRIVER_OUT_OF_MEMORY;
}

static int address_free(void *pointer, size_t num_bytes) {
  munmap(pointer, forget(pointer));
  return 0;
}

static int memory_create(size_t **handle, size_t num_bytes, const void *properties, unsigned long long flags) {
  if (device_bytes_used + num_bytes > DEVICE_BYTES) return DRIVER_OUT_OF_MEMORY;
  device_bytes_used += num_bytes;
  *handle = malloc(sizeof **handle);
  **handle = num_bytes;
  return 0;
}

static int memory_release(size_t *handle) {
  device_bytes_used -= *handle;
  free(handle);
  return 0;
}

static int granularity(size_t *num_bytes, const void *properties, int option) {
  *num_bytes = PAGE;
  return 0;
}

static int succeed() { return 0; }

static const struct {
  const char *symbol;
  void *function;
} driver[] = {
    {"cuMemAddressReserve", address_reserve}, {"cuMemAddressFree", address_free},
    {"cuMemCreate", memory_create},           {"cuMemRelease", memory_release},
    {"cuMemGetAllocationGranularity", granularity},
};

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags, enum cudaDriverEntryPointQueryResult *result) {
  *function = (void *)succeed;
  for (size_t place = 0; place < sizeof driver / sizeof *driver; place++)
    if (!strcmp(symbol, driver[place].symbol)) *function = driver[place].function;
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

/* Copies: what comes from the device is zero; a copy to or from memory that is not page-locked waits. */

static void copy(void *to, const void *from, size_t num_bytes) {
  int to_device = kind_of(to) == DEVICE, from_device = kind_of(from) == DEVICE;
  if (!to_device && from_device) memset(to, 0, num_bytes);
  if (!to_device && !from_device) memcpy(to, from, num_bytes);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t num_bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  copy(to, from, num_bytes);
  int to_device = kind_of(to) == DEVICE, from_device = kind_of(from) == DEVICE;
  if (from_device && kind_of(to) == PAGEABLE) return wait_for_device("copy to pageable memory", captures(stream));
  if (to_device && kind_of(from) == PAGEABLE) return wait_for_device("copy from pageable memory", captures(stream));
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t num_bytes, enum cudaMemcpyKind kind) {
  copy(to, from, num_bytes);
  return wait_for_device("cudaMemcpy", is_capturing);
}

cudaError_t cudaMemsetAsync(void *pointer, int value, size_t num_bytes, cudaStream_t stream) { return launch(stream); }
cudaError_t cudaMemset(void *pointer, int value, size_t num_bytes) { return launch(NULL); }

/* The device: the properties of an H100 by which PyTorch chooses kernels and their sizes.
 *
 * NULL_DEVICES is how many there are, NULL_SM their compute capability as "75". */

static int variable(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}

static __thread int current_device;

cudaError_t cudaGetDeviceCount(int *count) {
  *count = variable("NULL_DEVICES", 1);
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  *properties = (struct cudaDeviceProp){
      .name = "NVIDIA H100 80GB HBM3",
      .totalGlobalMem = DEVICE_BYTES,
      .major = variable("NULL_SM", 90) / 10,
      .minor = variable("NULL_SM", 90) % 10,
      .multiProcessorCount = 132,
      .warpSize = 32,
      .maxThreadsPerBlock = 1024,
      .maxThreadsPerMultiProcessor = 2048,
      .maxBlocksPerMultiProcessor = 32,
      .maxThreadsDim = {1024, 1024, 64},
      .maxGridSize = {2147483647, 65535, 65535},
      .sharedMemPerBlock = 49152,
      .sharedMemPerBlockOptin = 232448,
      .sharedMemPerMultiprocessor = 233472,
      .regsPerBlock = 65536,
      .regsPerMultiprocessor = 65536,
      .l2CacheSize = 52428800,
      .memoryBusWidth = 5120,
      .textureAlignment = 512,
      .concurrentKernels = 1,
      .unifiedAddressing = 1,
      .cooperativeLaunch = 1,
  };
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  struct cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, device);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrWarpSize: *value = properties.warpSize; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = properties.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = properties.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxGridDimX: *value = properties.maxGridSize[0]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = properties.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = properties.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = properties.sharedMemPerMultiprocessor; break;
    default: *value = 1;
  }
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *kernel) {
  *attributes = (struct cudaFuncAttributes){
      .maxThreadsPerBlock = 1024,
      .numRegs = 32,
      .binaryVersion = 90,
      .ptxVersion = 90,
      .maxDynamicSharedSizeBytes = 232448,
  };
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t shared) {
  *blocks = 2;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int *blocks, const void *kernel, int threads, size_t shared, unsigned flags) {
  *blocks = 2;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error) { return "an error of the GPU that is not there"; }
const char *cudaGetErrorName(cudaError_t error) { return "nullError"; }

/* Streams and events: names without anything behind them, of which only the waiting counts. */

static cudaError_t new_name(void *handle) {
  static uintptr_t last = 0x1000;
  *(uintptr_t *)handle = __atomic_add_fetch(&last, 16, __ATOMIC_RELAXED);
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return new_name(stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return new_name(stream); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) { return new_name(stream); }
cudaError_t cudaEventCreate(cudaEvent_t *event) { return new_name(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return new_name(event); }

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
  *milliseconds = 1;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) { return wait_for_device("cudaEventSynchronize", 0); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return wait_for_device("cudaStreamSynchronize", captures(stream));
}

cudaError_t cudaDeviceSynchronize(void) { return wait_for_device("cudaDeviceSynchronize", is_capturing); }

/* Graphs: what goes to a stream while it is captured is not launched, and waiting for it is an error. */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode) {
  capturing = stream;
  is_capturing = 1;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
  is_capturing = 0;
  return new_name(graph);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = captures(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *num_dependencies) {
  cudaStreamIsCapturing(stream, status);
  if (id) *id = captures(stream);
  if (num_dependencies) *num_dependencies = 0;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *num_nodes) {
  *num_nodes = 1;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
  return new_name(executable);
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags) {
  return new_name(executable);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) { return launch(stream); }

/* Launches: the calls that nvcc writes for `kernel<<<grid, block>>>`, and those that libraries make themselves. */

typedef struct {
  dim3 grid, block;
  size_t shared;
  void *stream;
} Configuration;
static __thread Configuration configurations[8];
static __thread int num_configurations;

void **__cudaRegisterFatBinary(void *binary) {
  static void *handle[4];
  return handle;
}

void __cudaRegisterFatBinaryEnd(void **handle) {}
void __cudaUnregisterFatBinary(void **handle) {}
void __cudaRegisterFunction() {}
void __cudaRegisterVar() {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
  configurations[num_configurations++] = (Configuration){grid, block, shared, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  Configuration last = configurations[--num_configurations];
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *(void **)stream = last.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
  return launch(stream);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream) {
  return launch(stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
  return launch(config->stream);
}

cudaError_t cudaGetSymbolAddress(void **pointer, const void *symbol) {
  static char memory[65536];
  *pointer = memory;
  return cudaSuccess;
}

/* cuBLAS: each product counts as one launch, on the captured stream if there is one; each algorithm is found. */

#define PRODUCT(function) \
  int function() { return launch(capturing); }
PRODUCT(cublasLtMatmul)
PRODUCT(cublasGemmEx)
PRODUCT(cublasGemmStridedBatchedEx)
PRODUCT(cublasSgemm_v2)
PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasSgemmEx)
PRODUCT(cublasSgemv_v2)
PRODUCT(cublasSdot_v2)
PRODUCT(cublasDotEx)

static int new_handle(void **handle) {
  static long memory[64];
  *handle = memory;
  return 0;
}

int cublasCreate_v2(void **handle) { return new_handle(handle); }
int cublasLtCreate(void **handle) { return new_handle(handle); }
int cublasLtMatmulPreferenceCreate(void **handle) { return new_handle(handle); }
int cublasLtMatmulDescCreate(void **handle, int compute, int scale) { return new_handle(handle); }
int cublasLtMatrixLayoutCreate(void **handle, int type, uint64_t rows, uint64_t columns, int64_t stride) {
  return new_handle(handle);
}

typedef struct {
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} Heuristic;

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c, void *d,
                                   void *preference, int num_wanted, Heuristic *found, int *num_found) {
  memset(found, 0, sizeof *found);
  *num_found = 1;
  return 0;
}

int cublasGetMathMode(void *handle, int *mode) {
  *mode = 0;
  return 0;
}

int cublasGetPointerMode_v2(void *handle, int *mode) {
  *mode = 0;
  return 0;
}

size_t cublasLtGetVersion(void) { return 130401; }
const char *cublasGetStatusString(int status) { return "a status of the cuBLAS that is not there"; }
