// Puts functions of our own where TensorFlow calls `bind` and `connect`, so that its server listens at one address alone, and so
// that its connections go through a tunnel. TensorFlow binds 0.0.0.0 in its code and has no setting for either.
//
// How: a shared library calls a function of another one through a slot in a table of addresses (the global offset table), which
// the loader fills. Its relocations name each slot's function. We look up the slots of `bind` and `connect` in TensorFlow's
// library and store our functions there. Calls of other libraries, of Python and of the user's code do not pass those slots.
//
// Our functions do what libc's do, except for
// - a `bind` to every interface in a thread that is starting a TensorFlow server (TfpsListenAt), and
// - a `connect` to an address that has a redirect (TfpsRedirect).
//
// Threading: any thread; a slot is replaced by one atomic store, and once stays replaced. Ownership: this library is never
// unloaded, because TensorFlow never unloads libraries of ops. Only ELF on x86-64 and 64-bit ARM; elsewhere TfpsHookSockets
// finds no slot, and Python says what follows (tfps/cluster/doors/).
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>

#include "tfps_ops/core/sockets/address_rules.h"

#define TFPS_EXPORT extern "C" __attribute__((visibility("default")))

namespace tfps {
namespace {

// The numbers of the relocations that fill a slot, for this kind of CPU.
#if defined(__x86_64__)
constexpr uint32_t kSlotRelocations[] = {R_X86_64_JUMP_SLOT, R_X86_64_GLOB_DAT};
#elif defined(__aarch64__)
constexpr uint32_t kSlotRelocations[] = {R_AARCH64_JUMP_SLOT, R_AARCH64_GLOB_DAT};
#else
constexpr uint32_t kSlotRelocations[] = {0, 0};  // R_*_NONE: fills no slot
#endif

// Where a server that this thread is starting shall listen. Of the thread, because other threads may bind sockets meanwhile.
thread_local std::optional<SocketAddress> listen_host;

// Never destroyed: TensorFlow's threads may connect until the process is gone.
Redirects& AllRedirects() {
  static auto* redirects = new Redirects();
  return *redirects;
}

// Calls a function of libc with another address. Returns -1 and sets errno where that address does not fit the socket.
template <class Call>
int CallWith(const SocketAddress& other, int socket, const sockaddr* address, socklen_t length, Call call) {
  sockaddr_storage changed = {};
  std::memcpy(&changed, address, length);
  if (!other.WriteTo(&changed)) {
    errno = EADDRNOTAVAIL;
    return -1;
  }
  return call(socket, reinterpret_cast<const sockaddr*>(&changed), length);
}

int HookedBind(int socket, const sockaddr* address, socklen_t length) {
  const auto wanted = listen_host ? SocketAddress::From(address, length) : std::nullopt;
  const auto bound = wanted ? BoundAddress(*wanted, *listen_host) : std::nullopt;
  // A larger address than any family has is the kernel's to refuse.
  if (!bound || length > sizeof(sockaddr_storage)) return ::bind(socket, address, length);
  return CallWith(*bound, socket, address, length, ::bind);
}

int HookedConnect(int socket, const sockaddr* address, socklen_t length) {
  const auto wanted = SocketAddress::From(address, length);
  const auto redirected = wanted ? AllRedirects().Find(*wanted) : std::nullopt;
  if (!redirected || length > sizeof(sockaddr_storage)) return ::connect(socket, address, length);
  return CallWith(*redirected, socket, address, length, ::connect);
}

// What the loader has read of one library: its symbols, their names, and its two tables of relocations.
struct DynamicSection {
  const ElfW(Sym)* symbols = nullptr;
  const char* names = nullptr;
  const ElfW(Rela)* tables[2] = {nullptr, nullptr};
  size_t bytes[2] = {0, 0};

  explicit DynamicSection(const dl_phdr_info& library) {
    const ElfW(Dyn)* entry = nullptr;
    for (int i = 0; i < library.dlpi_phnum; ++i) {
      const ElfW(Phdr)& segment = library.dlpi_phdr[i];
      if (segment.p_type == PT_DYNAMIC) entry = reinterpret_cast<const ElfW(Dyn)*>(library.dlpi_addr + segment.p_vaddr);
    }
    for (; entry != nullptr && entry->d_tag != DT_NULL; ++entry) {
      // glibc has replaced offsets by addresses.
      const ElfW(Addr) address = entry->d_un.d_ptr;
      switch (entry->d_tag) {
        case DT_SYMTAB: symbols = reinterpret_cast<const ElfW(Sym)*>(address); break;
        case DT_STRTAB: names = reinterpret_cast<const char*>(address); break;
        case DT_JMPREL: tables[0] = reinterpret_cast<const ElfW(Rela)*>(address); break;
        case DT_PLTRELSZ: bytes[0] = entry->d_un.d_val; break;
        case DT_RELA: tables[1] = reinterpret_cast<const ElfW(Rela)*>(address); break;
        case DT_RELASZ: bytes[1] = entry->d_un.d_val; break;
        default: break;
      }
    }
  }

  bool IsComplete() const { return symbols != nullptr && names != nullptr; }
};

// Whether the loader has made the page of a slot read-only after it filled the slot (RELRO).
bool IsReadOnly(const dl_phdr_info& library, uintptr_t slot) {
  for (int i = 0; i < library.dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = library.dlpi_phdr[i];
    const uintptr_t start = library.dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_GNU_RELRO && slot >= start && slot < start + segment.p_memsz) return true;
  }
  return false;
}

// Stores a function in a slot; false if the page of the slot cannot be written.
bool Store(const dl_phdr_info& library, uintptr_t slot, void* function) {
  const uintptr_t page_bytes = sysconf(_SC_PAGESIZE);
  void* page = reinterpret_cast<void*>(slot & ~(page_bytes - 1));
  const bool read_only = IsReadOnly(library, slot);
  if (read_only && mprotect(page, page_bytes, PROT_READ | PROT_WRITE) != 0) return false;
  reinterpret_cast<std::atomic<void*>*>(slot)->store(function);
  if (read_only) mprotect(page, page_bytes, PROT_READ);
  return true;
}

struct Hooks {
  const char* library;  // a part of the library's file name
  int found;            // 1: bind, 2: connect, 3: both
};

// Hooks one loaded library, if it is the one that is asked for. Returns 0, so that the loader shows the next one.
int HookLibrary(dl_phdr_info* library, size_t /*bytes*/, void* data) {
  auto* hooks = static_cast<Hooks*>(data);
  if (std::strstr(library->dlpi_name, hooks->library) == nullptr) return 0;
  const DynamicSection section(*library);
  if (!section.IsComplete()) return 0;
  for (int table = 0; table < 2; ++table) {
    for (size_t i = 0; i < section.bytes[table] / sizeof(ElfW(Rela)); ++i) {
      const ElfW(Rela)& relocation = section.tables[table][i];
      const uint32_t kind = ELF64_R_TYPE(relocation.r_info), symbol = ELF64_R_SYM(relocation.r_info);
      if (symbol == 0 || (kind != kSlotRelocations[0] && kind != kSlotRelocations[1])) continue;
      const char* name = section.names + section.symbols[symbol].st_name;
      const uintptr_t slot = library->dlpi_addr + relocation.r_offset;
      if (std::strcmp(name, "bind") == 0 && Store(*library, slot, reinterpret_cast<void*>(&HookedBind))) hooks->found |= 1;
      if (std::strcmp(name, "connect") == 0 && Store(*library, slot, reinterpret_cast<void*>(&HookedConnect))) hooks->found |= 2;
    }
  }
  return 0;
}

}  // namespace
}  // namespace tfps

// Hooks the loaded libraries whose file name contains `library`. Returns 1 for `bind`, 2 for `connect`, 3 for both, 0 for none.
TFPS_EXPORT int TfpsHookSockets(const char* library) {
  tfps::Hooks hooks{library, 0};
  dl_iterate_phdr(tfps::HookLibrary, &hooks);
  return hooks.found;
}

// From now on, sockets that TensorFlow binds to every interface in this thread are bound to `host` instead; null ends that.
// Returns whether `host` is an IP address or null.
TFPS_EXPORT int TfpsListenAt(const char* host) {
  if (host == nullptr) {
    tfps::listen_host.reset();
    return 1;
  }
  auto parsed = tfps::SocketAddress::Parse(host, 0);
  if (parsed.ok()) tfps::listen_host = parsed.value();
  return parsed.ok();
}

// From now on, TensorFlow's connections to one address go to the other. Returns whether both are addresses.
TFPS_EXPORT int TfpsRedirect(const char* from_host, int from_port, const char* to_host, int to_port) {
  auto from = tfps::SocketAddress::Parse(from_host, from_port), to = tfps::SocketAddress::Parse(to_host, to_port);
  if (!from.ok() || !to.ok()) return 0;
  tfps::AllRedirects().Add(from.value(), to.value());
  return 1;
}
