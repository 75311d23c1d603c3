/* An NVML of one made-up GPU, for tests: as much of NVIDIA's interface as rbees asks for.
 *
 * While the file that NVML_STUB_HANGS names exists, every question about memory waits, for ever if need be. The file that
 * NVML_STUB_HOLDER names may hold a process id and bytes: who uses the GPU.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define INSUFFICIENT_SIZE 7

static int the_gpu;

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } process_t;

static void wait_while_it_hangs(void) {
    const char *file = getenv("NVML_STUB_HANGS");
    while (file && access(file, F_OK) == 0) usleep(10000);
}

static int text(char *out, unsigned int size, const char *value) {
    snprintf(out, size, "%s", value);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "stub"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 1; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    *handle = &the_gpu;
    return index == 0 ? SUCCESS : INVALID_ARGUMENT;
}
int nvmlDeviceGetMigMode(void *handle, unsigned int *now, unsigned int *then) {
    (void)handle; (void)now; (void)then;
    return NOT_SUPPORTED;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    (void)handle;
    wait_while_it_hangs();
    memory->total = 8ULL << 30;
    memory->used = 1ULL << 30;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    (void)handle;
    *major = 9;
    *minor = 0;
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) {
    (void)handle;
    rates->gpu = 42;
    rates->memory = 7;
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *celsius) {
    (void)handle; (void)sensor;
    *celsius = 51;
    return SUCCESS;
}
int nvmlDeviceGetName(void *handle, char *name, unsigned int size) { (void)handle; return text(name, size, "NVIDIA Stub"); }
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned int size) { (void)handle; return text(uuid, size, "GPU-stub"); }
int nvmlSystemGetDriverVersion(char *version, unsigned int size) { return text(version, size, "580.0"); }
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *processes) {
    (void)handle;
    const char *name = getenv("NVML_STUB_HOLDER");
    FILE *file = name ? fopen(name, "r") : NULL;
    process_t found;
    memset(&found, 0, sizeof found);
    int known = file && fscanf(file, "%u %llu", &found.pid, &found.used) == 2;
    if (file) fclose(file);
    if (known && *count == 0) { *count = 1; return INSUFFICIENT_SIZE; }
    *count = known ? 1 : 0;
    if (known) processes[0] = found;
    return SUCCESS;
}
