/* A libnvidia-ml.so.1 that reads a scripted power curve: the known truth behind the real bindings.
 *
 * scripted.py writes the control file named by NVML_SCRIPT (struct Script, mirrored there); any
 * number of processes map it and read. True board power is piecewise constant: breakpoint i says
 * that power is power_w from t_ns on. Each breakpoint carries the energy up to it, so a reading
 * is a binary search.
 *
 *   true power   ____|~~~~~~~|____        breakpoints
 *   looked at    --##--##--##--##         the last `sampled_fraction` of each counter period
 *   counter      ____|__|~~|~~|__         steps at start + phase + k * period, `lag` late
 *
 * Built with -DWITHOUT_ENERGY, -DWITHOUT_FIELDS, -DWITHOUT_EVENT_REASONS, -DWITHOUT_THROTTLE or
 * -DWITHOUT_POWER it lacks these symbols, as an old driver would.
 */
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_GPUS = 16, MAX_PROCESSES = 64, MAX_FAULTS = 64 };

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
       NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

enum Kind { FREEZE = 1, JUMP, WRAP, ZERO, LOST, ENERGY_ERROR, POWER_ERROR, FIELDS_ERROR,
            INSTANT_ERROR, AVERAGE_ERROR, SLOW_STATE_ERROR, THROTTLE, SLOW_CALL };

typedef struct { int32_t kind, unused; int64_t at_ns, until_ns; double value; } Fault;

typedef struct { int64_t t_ns; double power_w, energy_j, sampled_j; } Breakpoint;

typedef struct {
    char uuid[96], name[96], pci_bus_id[32];
    int64_t memory_bytes, memory_used_bytes;
    double idle_w, counter_period_s, counter_phase_s, lag_s, gain, sampled_fraction;
    double power_period_s, power_phase_s, power_averaging_s, power_lag_s, average_width_s;
    double noise_w, resolution_mj, counter_start_mj, module_extra_w;
    double power_limit_w, default_limit_w, temperature_c, memory_temperature_c;
    double sm_clock_mhz, mem_clock_mhz;
    int64_t throttle_mask;
    int32_t instant_power, power_usage_averaged, scoped_energy, mig, ecc, persistence;
    int32_t compute_major, compute_minor, power_value_type, process_count, fault_count, unused;
    uint32_t pids[MAX_PROCESSES];
    int64_t process_bytes[MAX_PROCESSES];
    Fault faults[MAX_FAULTS];
    int64_t offset, capacity, count;
} Gpu;

typedef struct {
    char magic[8];
    int64_t size, start_ns, virtual_clock, now_ns;
    int32_t gpu_count, init_error, cuda_version, calls;
    char driver[80];
    Gpu gpus[MAX_GPUS];
} Script;

static Script *script;
static char script_path[4096];
static int opened;

/* --- time and truth --- */

static int64_t now_ns(void) {
    if (script->virtual_clock) return __atomic_load_n(&script->now_ns, __ATOMIC_ACQUIRE);
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t ns(double seconds) { return llround(seconds * 1e9); }

static int64_t floor_div(int64_t a, int64_t b) {
    int64_t q = a / b;
    return (a % b != 0 && (a < 0) != (b < 0)) ? q - 1 : q;
}

typedef struct { int64_t t_ns; double power_w, energy_j, sampled_j; int first; } Segment;

/* The piece of the curve that holds at t: idle power before the first breakpoint. */
static Segment segment_at(const Script *s, const Gpu *g, int64_t t) {
    const Breakpoint *b = (const Breakpoint *)((const char *)s + g->offset);
    int64_t low = 0, high = __atomic_load_n(&g->count, __ATOMIC_ACQUIRE);
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (b[middle].t_ns <= t) low = middle + 1; else high = middle;
    }
    if (low == 0) return (Segment){s->start_ns, g->idle_w, 0, 0, 1};
    b += low - 1;
    return (Segment){b->t_ns, b->power_w, b->energy_j, b->sampled_j, 0};
}

static double energy_at(const Script *s, const Gpu *g, int64_t t) {
    Segment p = segment_at(s, g, t);
    return p.energy_j + p.power_w * (double)(t - p.t_ns) / 1e9;
}

static double mean_power(const Script *s, const Gpu *g, int64_t end, int64_t width) {
    if (width <= 0) return segment_at(s, g, end).power_w;
    return (energy_at(s, g, end) - energy_at(s, g, end - width)) / ((double)width / 1e9);
}

/* Sum over all counter ticks whose look ended at or before t: mean power seen times period. */
static double sampled_at(const Script *s, const Gpu *g, int64_t t) {
    int64_t period = ns(g->counter_period_s), width = llround(g->sampled_fraction * (double)period);
    int64_t first_end = s->start_ns + ns(g->counter_phase_s) - ns(g->lag_s);
    int64_t last = floor_div(t - first_end, period);
    Segment p = segment_at(s, g, t);
    int64_t next = p.first ? 0 : floor_div(p.t_ns - first_end, period) + 1;
    if (next < 0) next = 0;
    double sum = p.sampled_j;
    for (; next <= last && !p.first && first_end + next * period - width < p.t_ns; next++)
        sum += mean_power(s, g, first_end + next * period, width) * (double)period / 1e9;
    if (next <= last) sum += p.power_w * (double)((last - next + 1) * period) / 1e9;
    return sum;
}

/* Called by scripted.py on its own mapping: 0, -1 (full) or -2 (time runs backwards). */
int scripted_append(Script *s, int index, int64_t t, double power_w) {
    Gpu *g = &s->gpus[index];
    Breakpoint *b = (Breakpoint *)((char *)s + g->offset);
    int64_t n = g->count;
    if (n >= g->capacity) return -1;
    if (n > 0 && t < b[n - 1].t_ns) return -2;
    b[n] = (Breakpoint){t, power_w, energy_at(s, g, t), sampled_at(s, g, t)};
    __atomic_store_n(&g->count, n + 1, __ATOMIC_RELEASE);
    return 0;
}

int64_t scripted_size(void) { return (int64_t)sizeof(Script); }

/* --- faults --- */

static const Fault *fault(const Gpu *g, int kind, int64_t t) {
    int n = __atomic_load_n(&g->fault_count, __ATOMIC_ACQUIRE);
    for (int i = n - 1; i >= 0; i--) {
        const Fault *f = &g->faults[i];
        if (f->kind == kind && f->at_ns <= t && t < f->until_ns) return f;
    }
    return NULL;
}

static int failing(const Gpu *g, int kind, int64_t t) {
    const Fault *f = fault(g, kind, t);
    return f ? (int)f->value : OK;
}

/* What every call on a device does first: it may be slow, lost, or refuse this group of calls. */
static int enter(const Gpu *g, int kind) {
    if (!opened) return UNINITIALIZED;
    if (g < script->gpus || g >= script->gpus + script->gpu_count) return INVALID_ARGUMENT;
    int64_t t = now_ns();
    const Fault *slow = fault(g, SLOW_CALL, t);
    if (slow) usleep((useconds_t)slow->value);
    if (fault(g, LOST, t)) return GPU_IS_LOST;
    return kind ? failing(g, kind, t) : OK;
}

/* --- the sensor --- */

static uint64_t counter_mj(const Gpu *g, int64_t now, int module) {
    int64_t t = now;
    const Fault *frozen = fault(g, FREEZE, now);
    if (frozen) t = frozen->at_ns;
    double mj = g->counter_start_mj + 1e3 * g->gain * sampled_at(script, g, t - ns(g->lag_s));
    if (module) mj += 1e6 + 1e3 * g->module_extra_w * (double)(t - script->start_ns) / 1e9;
    for (int i = 0; i < g->fault_count; i++)
        if (g->faults[i].kind == JUMP && g->faults[i].at_ns <= t) mj += 1e3 * g->faults[i].value;
    const Fault *wrap = fault(g, WRAP, t);
    if (wrap) mj -= floor(mj / (1e3 * wrap->value)) * 1e3 * wrap->value;
    if (fault(g, ZERO, now) || mj < 0) return 0;
    return (uint64_t)(floor(mj / g->resolution_mj) * g->resolution_mj);
}

static double uniform(uint64_t x) { /* splitmix64: the same noise for the same tick, always */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return ((double)((x ^ (x >> 31)) >> 11) + 0.5) / 9007199254740992.0;
}

static double power_reading_w(const Gpu *g, int64_t now, double width_s, int channel) {
    int64_t period = ns(g->power_period_s), first = script->start_ns + ns(g->power_phase_s);
    int64_t tick = period > 0 ? floor_div(now - first, period) : now;
    int64_t at = period > 0 ? first + tick * period : now;
    double watts = g->gain * mean_power(script, g, at - ns(g->power_lag_s), ns(width_s));
    if (g->noise_w > 0) {
        uint64_t key = ((uint64_t)tick * MAX_GPUS + (uint64_t)(g - script->gpus)) * 8 + channel * 2;
        watts += g->noise_w * sqrt(-2 * log(uniform(key))) * cos(2 * M_PI * uniform(key + 1));
    }
    return watts > 0 ? watts : 0;
}

static double instant_w(const Gpu *g, int64_t now) {
    double width_s = g->power_averaging_s;
    if (width_s <= 0 && g->sampled_fraction < 1) width_s = g->sampled_fraction * g->power_period_s;
    return power_reading_w(g, now, width_s, 0);
}

static double average_w(const Gpu *g, int64_t now) {
    return power_reading_w(g, now, g->average_width_s, 1);
}

/* --- the library --- */

int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    const char *path = getenv("NVML_SCRIPT");
    if (!path) return DRIVER_NOT_LOADED;
    if (!script || strcmp(path, script_path) != 0) {
        struct stat info;
        int file = open(path, O_RDWR);
        if (file < 0) return DRIVER_NOT_LOADED;
        if (fstat(file, &info) != 0 || info.st_size < (off_t)sizeof(Script)) {
            close(file);
            return DRIVER_NOT_LOADED;
        }
        /* An older mapping stays: handles of a caller that never shut down point into it. */
        void *mapped = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (mapped == MAP_FAILED) return DRIVER_NOT_LOADED;
        script = mapped;
        snprintf(script_path, sizeof script_path, "%s", path);
        opened = 0;
    }
    if (script->init_error) return script->init_error;
    opened++;
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    if (!opened) return UNINITIALIZED;
    opened--;
    return OK;
}

const char *nvmlErrorString(int code) {
    static const char *words[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power",
        "Driver Not Loaded", "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found",
        "Function Not Found", "Corrupted infoROM", "GPU is lost", "GPU requires reset",
        "The operating system has blocked the request", "Driver/library version mismatch",
        "In use by another client", "Insufficient Memory"};
    return code >= 0 && code < (int)(sizeof words / sizeof *words) ? words[code] : "Unknown Error";
}

static int text(char *out, unsigned int length, const char *value) {
    if (strlen(value) >= length) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return OK;
}

int nvmlSystemGetDriverVersion(char *out, unsigned int length) {
    return opened ? text(out, length, script->driver) : UNINITIALIZED;
}
int nvmlSystemGetNVMLVersion(char *out, unsigned int length) {
    return text(out, length, "13.scripted-1.0");
}
int nvmlSystemGetCudaDriverVersion(int *out) {
    if (!opened) return UNINITIALIZED;
    *out = script->cuda_version;
    return OK;
}
int nvmlSystemGetCudaDriverVersion_v2(int *out) { return nvmlSystemGetCudaDriverVersion(out); }

int nvmlDeviceGetCount_v2(unsigned int *out) {
    if (!opened) return UNINITIALIZED;
    *out = (unsigned int)script->gpu_count;
    return OK;
}
int nvmlDeviceGetCount(unsigned int *out) { return nvmlDeviceGetCount_v2(out); }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Gpu **out) {
    if (!opened) return UNINITIALIZED;
    if (index >= (unsigned int)script->gpu_count) return INVALID_ARGUMENT;
    *out = &script->gpus[index];
    return enter(*out, 0);
}
static int same_uuid(const Gpu *g, const char *key) { return strcmp(g->uuid, key) == 0; }
static int same_bus(const Gpu *g, const char *key) { return strcasecmp(g->pci_bus_id, key) == 0; }
static int handle_by(int (*same)(const Gpu *, const char *), const char *key, Gpu **out) {
    if (!opened) return UNINITIALIZED;
    for (int i = 0; i < script->gpu_count; i++)
        if (same(&script->gpus[i], key)) {
            *out = &script->gpus[i];
            return enter(*out, 0);
        }
    return NOT_FOUND;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **out) {
    return handle_by(same_uuid, uuid, out);
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, Gpu **out) {
    return handle_by(same_bus, bus, out);
}

#define ENTER(kind) do { int code = enter(g, kind); if (code) return code; } while (0)

int nvmlDeviceGetIndex(const Gpu *g, unsigned int *out) {
    ENTER(0);
    *out = (unsigned int)(g - script->gpus);
    return OK;
}
int nvmlDeviceGetMinorNumber(const Gpu *g, unsigned int *out) { return nvmlDeviceGetIndex(g, out); }
int nvmlDeviceGetName(const Gpu *g, char *out, unsigned int n) {
    ENTER(0);
    return text(out, n, g->name);
}
int nvmlDeviceGetUUID(const Gpu *g, char *out, unsigned int n) {
    ENTER(0);
    return text(out, n, g->uuid);
}
int nvmlDeviceGetVbiosVersion(const Gpu *g, char *out, unsigned int n) {
    ENTER(0);
    return text(out, n, "00.00.00.00.01");
}

typedef struct {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;
int nvmlDeviceGetPciInfo_v3(const Gpu *g, PciInfo *out) {
    ENTER(0);
    memset(out, 0, sizeof *out);
    sscanf(g->pci_bus_id, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    snprintf(out->bus_id_legacy, 16, "%04X:%02X:%02X.0", out->domain & 0xffff, out->bus & 0xff,
             out->device & 0xff);
    snprintf(out->bus_id, 32, "%s", g->pci_bus_id);
    out->pci_device_id = 0x233010de;
    return OK;
}

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } MemoryV2;
int nvmlDeviceGetMemoryInfo(const Gpu *g, Memory *out) {
    ENTER(0);
    int64_t used = g->memory_used_bytes;
    for (int i = 0; i < g->process_count; i++) used += g->process_bytes[i];
    out->total = (unsigned long long)g->memory_bytes;
    out->used = (unsigned long long)used;
    out->free = out->total - out->used;
    return OK;
}
int nvmlDeviceGetMemoryInfo_v2(const Gpu *g, MemoryV2 *out) {
    Memory m;
    int code = nvmlDeviceGetMemoryInfo(g, &m);
    if (code) return code;
    out->total = m.total;
    out->reserved = 0;
    out->free = m.free;
    out->used = m.used;
    return OK;
}

#ifndef WITHOUT_ENERGY
int nvmlDeviceGetTotalEnergyConsumption(const Gpu *g, unsigned long long *out) {
    ENTER(ENERGY_ERROR);
    *out = counter_mj(g, now_ns(), 0);
    return OK;
}
#endif

#ifndef WITHOUT_POWER
int nvmlDeviceGetPowerUsage(const Gpu *g, unsigned int *out) {
    ENTER(POWER_ERROR);
    int64_t t = now_ns();
    *out = (unsigned int)lround(1e3 * (g->power_usage_averaged ? average_w(g, t) : instant_w(g, t)));
    return OK;
}
#endif

#ifndef WITHOUT_FIELDS
typedef union { double d; unsigned int ui; unsigned long ul; unsigned long long ull; long long sll; }
    Value;
typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency_us;
    uint32_t type, code;
    Value value;
} FieldValue;

static void put(FieldValue *f, uint32_t type, double value) {
    f->type = type;
    f->code = OK;
    switch (type) {
    case 0: f->value.d = value; break;
    case 1: f->value.ui = (unsigned int)llround(value); break;
    case 2: f->value.ul = (unsigned long)llround(value); break;
    case 3: f->value.ull = (unsigned long long)llround(value); break;
    default: f->value.sll = llround(value);
    }
}

static void read_field(const Gpu *g, int64_t t, FieldValue *f) {
    int module = f->scope == 1, refused;
    double extra_w = module ? g->module_extra_w : 0;
    uint32_t type = (uint32_t)g->power_value_type;
    f->code = NOT_SUPPORTED;
    if (f->scope > 1 || (module && isnan(extra_w))) return;
    switch (f->field) {
    case 82:
        put(f, 1, g->memory_temperature_c);
        break;
    case 83:
        refused = failing(g, ENERGY_ERROR, t);
#ifdef WITHOUT_ENERGY
        refused = NOT_SUPPORTED;
#endif
        if (refused) f->code = (uint32_t)refused;
        else put(f, 3, (double)counter_mj(g, t, module && g->scoped_energy));
        break;
    case 185:
        refused = failing(g, AVERAGE_ERROR, t);
        if (refused) f->code = (uint32_t)refused;
        else if (g->power_usage_averaged) put(f, type, 1e3 * (average_w(g, t) + extra_w));
        break;
    case 186:
        refused = failing(g, INSTANT_ERROR, t);
        if (refused) f->code = (uint32_t)refused;
        else if (g->instant_power) put(f, type, 1e3 * (instant_w(g, t) + extra_w));
        break;
    case 189: put(f, 1, 1e3 * g->default_limit_w); break;
    case 190: put(f, 1, 1e3 * g->power_limit_w); break;
    default: break;
    }
}

int nvmlDeviceGetFieldValues(const Gpu *g, int count, FieldValue *values) {
    ENTER(FIELDS_ERROR);
    int64_t t = now_ns();
    for (int i = 0; i < count; i++) {
        values[i].timestamp = t / 1000;
        values[i].latency_us = 0;
        read_field(g, t, &values[i]);
    }
    return OK;
}
#endif

int nvmlDeviceGetEnforcedPowerLimit(const Gpu *g, unsigned int *out) {
    ENTER(0);
    *out = (unsigned int)lround(1e3 * g->power_limit_w);
    return OK;
}
int nvmlDeviceGetPowerManagementLimit(const Gpu *g, unsigned int *out) {
    return nvmlDeviceGetEnforcedPowerLimit(g, out);
}
int nvmlDeviceGetPowerManagementDefaultLimit(const Gpu *g, unsigned int *out) {
    ENTER(0);
    *out = (unsigned int)lround(1e3 * g->default_limit_w);
    return OK;
}
int nvmlDeviceGetTemperature(const Gpu *g, int sensor, unsigned int *out) {
    ENTER(SLOW_STATE_ERROR);
    if (sensor != 0) return INVALID_ARGUMENT;
    *out = (unsigned int)lround(g->temperature_c);
    return OK;
}
int nvmlDeviceGetClockInfo(const Gpu *g, int type, unsigned int *out) {
    ENTER(SLOW_STATE_ERROR);
    *out = (unsigned int)lround(type == 2 ? g->mem_clock_mhz : g->sm_clock_mhz);
    return OK;
}
int nvmlDeviceGetMaxClockInfo(const Gpu *g, int type, unsigned int *out) {
    return nvmlDeviceGetClockInfo(g, type, out);
}

static int reasons(const Gpu *g, unsigned long long *out) {
    ENTER(SLOW_STATE_ERROR);
    const Fault *f = fault(g, THROTTLE, now_ns());
    *out = (unsigned long long)(f ? (int64_t)f->value : g->throttle_mask);
    return OK;
}
#ifndef WITHOUT_EVENT_REASONS
int nvmlDeviceGetCurrentClocksEventReasons(const Gpu *g, unsigned long long *out) {
    return reasons(g, out);
}
#endif
#ifndef WITHOUT_THROTTLE
int nvmlDeviceGetCurrentClocksThrottleReasons(const Gpu *g, unsigned long long *out) {
    return reasons(g, out);
}
#endif

int nvmlDeviceGetPersistenceMode(const Gpu *g, unsigned int *out) {
    ENTER(0);
    *out = (unsigned int)g->persistence;
    return OK;
}
int nvmlDeviceGetMigMode(const Gpu *g, unsigned int *current, unsigned int *pending) {
    ENTER(0);
    if (g->mig < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned int)g->mig;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(const Gpu *g, unsigned int *out) {
    ENTER(0);
    *out = g->mig > 0 ? 7 : 0;
    return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(const Gpu *g, unsigned int index, Gpu **out) {
    (void)index, (void)out;
    ENTER(0);
    return NOT_FOUND;
}
int nvmlDeviceGetEccMode(const Gpu *g, unsigned int *current, unsigned int *pending) {
    ENTER(0);
    if (g->ecc < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned int)g->ecc;
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(const Gpu *g, int *major, int *minor) {
    ENTER(0);
    *major = g->compute_major;
    *minor = g->compute_minor;
    return OK;
}

typedef struct { unsigned int gpu, memory; } Utilization;
int nvmlDeviceGetUtilizationRates(const Gpu *g, Utilization *out) {
    ENTER(0);
    double share = (instant_w(g, now_ns()) - g->idle_w) / (g->power_limit_w - g->idle_w);
    out->gpu = share <= 0 ? 0 : share >= 1 ? 100 : (unsigned int)(100 * share);
    out->memory = out->gpu / 2;
    return OK;
}

typedef struct { unsigned int pid; unsigned long long bytes; unsigned int gpu_instance, instance; }
    Process;
int nvmlDeviceGetComputeRunningProcesses_v3(const Gpu *g, unsigned int *count, Process *out) {
    ENTER(SLOW_STATE_ERROR);
    unsigned int room = *count, n = (unsigned int)g->process_count;
    *count = n;
    if (n == 0) return OK;
    if (!out || room < n) return INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < n; i++)
        out[i] = (Process){g->pids[i], (unsigned long long)g->process_bytes[i], ~0u, ~0u};
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v2(const Gpu *g, unsigned int *count, Process *out) {
    return nvmlDeviceGetComputeRunningProcesses_v3(g, count, out);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(const Gpu *g, unsigned int *count, Process *out) {
    (void)out;
    ENTER(0);
    *count = 0;
    return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v2(const Gpu *g, unsigned int *count, Process *out) {
    return nvmlDeviceGetGraphicsRunningProcesses_v3(g, count, out);
}
