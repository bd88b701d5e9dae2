/* A CUDA that computes nothing. It answers what MindSpore's GPU backend asks (handles, sizes, memory), counts each call
 * and returns success. Device memory is memory of the host. Copies between host and device are done, because weights and
 * images go that way. What a device does by itself (kernels, copies within it) is not done, so a result that is read
 * back is whatever lay there. Parameters that do not matter are left out where they are the last ones.
 *
 * null_cuda.py compiles this file twice: as it is, and with FUNCTIONS defined, which gives a counting function to each
 * name that is not defined here.
 *
 * Environment:
 *   NULL_CUDA_DEVICES     number of devices (1)
 *   NULL_CUDA_CAPABILITY  compute capability times 10 (80)
 *   NULL_CUDA_GB          memory of a device in GiB (80)
 *   NULL_CUDA_REPORT      folder for the counts at the end of a process, file PID.json
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct count {
    const char *name;
    unsigned long calls;
    struct count *next;
};

int null_cuda_count(struct count *c);

#ifdef FUNCTIONS
#define FUNCTION(f) __attribute__((weak)) int f(void) { static struct count c = {#f}; return null_cuda_count(&c); }
#include FUNCTIONS
#else

#define SUCCESS 0
#define OUT_OF_MEMORY 2

/* ---- Counts ---- */

static struct count *counts;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Count one call -> SUCCESS. */
int null_cuda_count(struct count *c) {
    pthread_mutex_lock(&mutex);
    if (!c->calls++ && !c->next) {
        c->next = counts ? counts : c;      /* the last one points to itself */
        counts = c;
    }
    pthread_mutex_unlock(&mutex);
    return SUCCESS;
}

#define COUNT ({ static struct count c_ = {__func__}; null_cuda_count(&c_); })

/* Count a call of `function` with this number. */
static int count_with(const char *function, size_t number) {
    static struct count known[256];
    struct count *c = known;
    char name[64];
    snprintf(name, sizeof name, "%s %zu", function, number);
    pthread_mutex_lock(&mutex);
    while (c < known + 255 && c->name && strcmp(c->name, name)) c++;
    if (!c->name) c->name = strdup(name);
    pthread_mutex_unlock(&mutex);
    return null_cuda_count(c);
}

static struct count *after(struct count *c) { return c->next == c ? 0 : c->next; }

/* Forget all calls until now. */
void null_cuda_reset(void) {
    pthread_mutex_lock(&mutex);
    for (struct count *c = counts; c; c = after(c)) c->calls = 0;
    pthread_mutex_unlock(&mutex);
}

/* Write {name: number of calls} into a file. */
void null_cuda_report(const char *path) {
    FILE *file = fopen(path, "w");
    if (!file) return;
    fprintf(file, "{\"\": 0");
    for (struct count *c = counts; c; c = after(c)) fprintf(file, ",\n\"%s\": %lu", c->name, c->calls);
    fprintf(file, "}\n");
    fclose(file);
}

__attribute__((destructor)) static void report_at_the_end(void) {
    const char *folder = getenv("NULL_CUDA_REPORT");
    char path[4096];
    if (!folder || !counts) return;         /* a shell or a tool that uses no CUDA has nothing to report */
    snprintf(path, sizeof path, "%s/%d.json", folder, (int)getpid());
    null_cuda_report(path);
}

/* ---- Devices ---- */

static size_t setting(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoul(text, 0, 10) : otherwise;
}

static size_t memory_of_device(void) { return setting("NULL_CUDA_GB", 80) << 30; }

int cuInit(unsigned flags) { return COUNT; }
int cuDeviceGetCount(int *n) { *n = setting("NULL_CUDA_DEVICES", 1); return COUNT; }
int cudaGetDeviceCount(int *n) { return cuDeviceGetCount(n); }
int cudaSetDevice(int device) { return count_with("cudaSetDevice", device); }
const char *cudaGetErrorString(int error) { return error ? "error of the null CUDA" : "no error"; }

/* The first members of cudaDeviceProp of CUDA 11. */
struct properties {
    char name[256], uuid[16], luid[8];
    unsigned node_mask;
    size_t memory, shared_memory;
    int registers, warp;
    size_t pitch;
    int threads, block[3], grid[3], clock;
    size_t constant_memory;
    int major, minor;
    size_t texture_alignment, pitch_alignment;
    int overlap, multiprocessors;
};

int cudaGetDeviceProperties(struct properties *p) {
    size_t capability = setting("NULL_CUDA_CAPABILITY", 80);
    *p = (struct properties){
        .name = "null", .memory = memory_of_device(), .shared_memory = 48 << 10, .registers = 64 << 10, .warp = 32,
        .pitch = INT32_MAX, .threads = 1024, .block = {1024, 1024, 64}, .grid = {INT32_MAX, 65535, 65535},
        .clock = 1410000, .constant_memory = 64 << 10, .major = capability / 10, .minor = capability % 10,
        .texture_alignment = 512, .pitch_alignment = 32, .overlap = 1, .multiprocessors = 108};
    return COUNT;
}

/* Functions that make something which is only passed back to other functions. */
#define HANDLE(f) int f(const void **handle) { *handle = &counts; return COUNT; }
HANDLE(cudaStreamCreate) HANDLE(cudaStreamCreateWithFlags) HANDLE(cudaStreamCreateWithPriority)
HANDLE(cudaEventCreate) HANDLE(cudaEventCreateWithFlags)
HANDLE(cudnnCreate) HANDLE(cublasCreate_v2) HANDLE(cusolverDnCreate)
HANDLE(cudnnCreateConvolutionDescriptor) HANDLE(cudnnCreatePoolingDescriptor) HANDLE(cudnnCreateActivationDescriptor)
HANDLE(cudnnCreateOpTensorDescriptor) HANDLE(cudnnCreateReduceTensorDescriptor) HANDLE(cudnnCreateDropoutDescriptor)

/* ---- Memory ---- */

#define PAGE 4096       /* a page before each block holds the size of the block */
static size_t allocated;

int cudaMalloc(char **p, size_t size) {
    if (allocated + size > memory_of_device()) return OUT_OF_MEMORY;
    char *block = mmap(0, PAGE + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) return OUT_OF_MEMORY;
    *(size_t *)block = size;
    allocated += size;
    *p = block + PAGE;
    return COUNT;
}

int cudaFree(char *p) {
    if (!p) return SUCCESS;
    size_t size = *(size_t *)(p - PAGE);
    allocated -= size;
    munmap(p - PAGE, PAGE + size);
    return COUNT;
}

int cudaMemGetInfo(size_t *left, size_t *total) {
    *total = memory_of_device();
    *left = *total - allocated;
    return COUNT;
}

int cudaHostAlloc(void **p, size_t size) { *p = calloc(1, size); return COUNT; }
int cudaFreeHost(void *p) { free(p); return COUNT; }

int cudaMemcpyAsync(void *to, const void *from, size_t size, int direction) {
    static struct count directions[] = {{"copy host to host"}, {"copy host to device"}, {"copy device to host"},
                                        {"copy device to device"}, {"copy in a direction that is not given"}};
    if (direction != 3) memmove(to, from, size);
    /* A loss that is not finite would end a training. So numbers that are not finite or above a million become 0. */
    if (direction == 2)
        for (uint32_t *word = to; word + 1 <= (uint32_t *)to + size / 4; word++) {
            float value;
            memcpy(&value, word, 4);
            if (!(value < 1e6f && value > -1e6f)) *word = 0;
        }
    return null_cuda_count(&directions[direction]);
}

int cudaMemcpy(void *to, const void *from, size_t size, int direction) {
    return COUNT | cudaMemcpyAsync(to, from, size, direction);      /* counted twice, because it blocks too */
}

/* ---- cuDNN: a descriptor of a tensor or a filter is its size in bytes ---- */

#define DESCRIPTOR(kind) \
    int cudnnCreate##kind##Descriptor(void **d) { *d = calloc(1, sizeof(size_t)); return COUNT; } \
    int cudnnDestroy##kind##Descriptor(void *d) { free(d); return COUNT; } \
    int cudnnGet##kind##SizeInBytes(size_t *d, size_t *size) { *size = *d; return COUNT; }
DESCRIPTOR(Tensor) DESCRIPTOR(Filter)

static void describe(size_t *d, int type, int n, const int *dims) {
    static const size_t widths[] = {4, 8, 2, 1, 4};     /* float, double, half, int8, int32 */
    *d = type < 5 ? widths[type] : 4;
    while (n--) *d *= dims[n];
}

int cudnnSetTensorNdDescriptor(size_t *d, int type, int n, const int *dims) {
    describe(d, type, n, dims);
    return COUNT;
}
int cudnnSetTensorNdDescriptorEx(size_t *d, int format, int type, int n, const int *dims) {
    describe(d, type, n, dims);
    return COUNT;
}
int cudnnSetFilterNdDescriptor(size_t *d, int type, int format, int n, const int *dims) {
    describe(d, type, n, dims);
    return COUNT;
}
int cudnnSetTensor4dDescriptor(size_t *d, int format, int type, int n, int c, int h, int w) {
    describe(d, type, 4, (int[]){n, c, h, w});
    return COUNT;
}
int cudnnSetFilter4dDescriptor(size_t *d, int type, int format, int n, int c, int h, int w) {
    describe(d, type, 4, (int[]){n, c, h, w});
    return COUNT;
}

/* Nothing needs a workspace. The parameter after the others takes its size. */
#define NO_WORKSPACE(f, ...) int f(__VA_ARGS__, size_t *size) { *size = 0; return COUNT; }
NO_WORKSPACE(cudnnGetReductionWorkspaceSize, void *h, void *reduction, void *x, void *y)
NO_WORKSPACE(cudnnGetReductionIndicesSize, void *h, void *reduction, void *x, void *y)
NO_WORKSPACE(cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize, void *h, int mode, int ops, void *x, void *z,
             void *y, void *scale, void *activation)
NO_WORKSPACE(cudnnGetBatchNormalizationBackwardExWorkspaceSize, void *h, int mode, int ops, void *x, void *y, void *dy,
             void *dz, void *dx, void *scale, void *activation)
NO_WORKSPACE(cudnnGetBatchNormalizationTrainingExReserveSpaceSize, void *h, int mode, int ops, void *activation, void *x)
NO_WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize, void *h, void *x, void *w, void *c, void *y, int algorithm)
NO_WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize, void *h, void *w, void *dy, void *c, void *dx, int algorithm)
NO_WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize, void *h, void *x, void *dy, void *c, void *dw, int algorithm)

/* The best algorithm is always the first one. */
struct algorithm { int number, status; float time; size_t memory; int determinism, math, reserved[3]; };
#define ALGORITHM(f) int f(void *h, void *a, void *b, void *c, void *d, int most, int *found, struct algorithm *best) { \
    *found = 1; \
    memset(best, 0, sizeof *best); \
    return COUNT; \
}
ALGORITHM(cudnnGetConvolutionForwardAlgorithm_v7) ALGORITHM(cudnnGetConvolutionBackwardDataAlgorithm_v7)
ALGORITHM(cudnnGetConvolutionBackwardFilterAlgorithm_v7)

/* ---- NCCL: the ranks of one machine meet in a file that each of them maps. The sums of float32 are computed, because
 * ranks compare their configurations by sums. ---- */

#define PIECE (1 << 20)     /* numbers that are summed at once */
struct group {
    int rank, size;
    struct { unsigned arrivals; float values[]; } *shared;
};
struct id { char path[128]; };

static void wait_for_all(struct group *g) {
    unsigned before = __atomic_fetch_add(&g->shared->arrivals, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&g->shared->arrivals, __ATOMIC_SEQ_CST) / g->size <= before / g->size) usleep(50);
}

int ncclGetUniqueId(struct id *id) {
    strcpy(id->path, "/tmp/null_cuda-XXXXXX");
    close(mkstemp(id->path));
    return COUNT;
}

int ncclCommInitRank(struct group **group, int size, struct id id, int rank) {
    struct group *g = *group = malloc(sizeof *g);
    size_t bytes = sizeof *g->shared + sizeof(float) * PIECE * size;
    FILE *file = fopen(id.path, "r+");
    if (!file || ftruncate(fileno(file), bytes)) return OUT_OF_MEMORY;
    *g = (struct group){rank, size, mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0)};
    fclose(file);
    wait_for_all(g);
    if (rank == 0) unlink(id.path);
    return COUNT;
}

static void sum(struct group *g, const float *from, float *to, size_t n) {
    memcpy(g->shared->values + g->rank * PIECE, from, n * sizeof(float));
    wait_for_all(g);
    for (size_t i = 0; i < n; i++) {
        float total = 0;
        for (int rank = 0; rank < g->size; rank++) total += g->shared->values[rank * PIECE + i];
        to[i] = total;
    }
    wait_for_all(g);
}

int ncclAllReduce(const float *from, float *to, size_t n, int type, int operation, struct group *g) {
    if (type != 7 || operation != 0) return 4;      /* an invalid argument: not float32, or not a sum */
    for (size_t start = 0; start < n; start += PIECE)
        sum(g, from + start, to + start, n - start < PIECE ? n - start : PIECE);
    return count_with("ncclAllReduce", n);
}

#endif
