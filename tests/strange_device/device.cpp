// A device that computes on the CPU and is as strict as a GPU: it refuses tensors of two devices, random numbers of the
// CPU's generators, and, where STRANGE_WITHOUT_FLOAT64 is set, float64, as Apple's GPUs do. What lies on it is memory of
// the process; every operation runs on CPU tensors of the same memory (`fallback`).
#include <torch/library.h>
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/Generator.h>
#include <ATen/native/Resize.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <cstdlib>
#include <unordered_map>
using namespace at;
static const auto FK = c10::DeviceType::PrivateUse1;
static bool no64() { static bool v = std::getenv("STRANGE_WITHOUT_FLOAT64") != nullptr; return v; }
static void check64(c10::ScalarType t) {
  if (no64() && (t == kDouble || t == kComplexDouble)) TORCH_CHECK_TYPE(false, "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use float32 instead.");
}
struct Alloc final : c10::Allocator {
  static void del(void* p) { free(p); }
  DataPtr allocate(size_t n) override { void* p = n ? aligned_alloc(64, (n + 63) / 64 * 64) : nullptr; return {p, p, &del, c10::Device(FK, 0)}; }
  DeleterFnPtr raw_deleter() const override { return &del; }
  void copy_data(void* d, const void* s, std::size_t n) const override { memcpy(d, s, n); }
};
static Alloc alloc_;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &alloc_);
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return FK; }
  c10::Device exchangeDevice(c10::Device) const override { return c10::Device(FK, 0); }
  c10::Device getDevice() const override { return c10::Device(FK, 0); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream getDefaultStream(c10::Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream exchangeStream(c10::Stream s) const override { return s; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void synchronizeEvent(void*) const override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);
struct Hooks : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
  void resizePrivateUse1Bytes(const Storage& s, size_t n) const override {
    auto p = alloc_.allocate(n); auto old = s.nbytes(); if (s.data()) memcpy(p.get(), s.data(), std::min(n, old));
    s.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(p)); s.unsafeGetStorageImpl()->set_nbytes(n);
  }
};
static Hooks hooks_;
static int reg_ = (at::RegisterPrivateUse1HooksInterface(&hooks_), 0);

static bool is_f(const Tensor& t) { return t.defined() && t.device().type() == FK; }
static Tensor as_cpu(const Tensor& t) {  // the same memory as a CPU tensor
  Tensor keep = t;
  auto r = at::from_blob(t.data_ptr(), t.sizes(), t.strides(), [keep](void*) {}, t.options().device(kCPU).requires_grad(false).pinned_memory(false));
  if (t.is_conj()) r._set_conj(true);
  return r;
}
static Tensor wrap(const Tensor& c) {
  check64(c.scalar_type());
  Tensor keep = c.is_contiguous() || c.is_non_overlapping_and_dense() ? c : c.contiguous();
  auto nbytes = keep.storage().nbytes();
  auto* ctx = new Tensor(keep);
  DataPtr p(keep.storage().mutable_data(), ctx, [](void* q) { delete (Tensor*)q; }, c10::Device(FK, 0));
  Storage st(Storage::use_byte_size_t(), nbytes, std::move(p), &alloc_, true);
  auto out = at::detail::make_tensor<TensorImpl>(std::move(st), DispatchKeySet(DispatchKey::PrivateUse1), keep.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(keep.sizes(), keep.strides(), keep.storage_offset());
  return out;
}
static void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  auto n = schema.arguments().size();
  auto base = stack->size() - n;
  std::unordered_map<TensorImpl*, Tensor> back;
  std::vector<std::pair<void*, Tensor>> bases;
  bool cpu_dim = false, any = false, gen_cpu = false;
  const bool indexing = schema.name().rfind("aten::index", 0) == 0 || schema.name().rfind("aten::_index_put", 0) == 0;
  std::vector<std::pair<Tensor, Tensor>> outs;
  auto conv = [&](const Tensor& t) -> Tensor {
    if (!t.defined()) return t;
    if (is_f(t) && schema.is_mutable() && t.numel() == 0) { any = true; auto a = at::empty({0}, t.options().device(kCPU)); back[a.unsafeGetTensorImpl()] = t; outs.emplace_back(t, a); return a; }
    if (is_f(t)) { any = true; check64(t.scalar_type()); auto a = as_cpu(t); back[a.unsafeGetTensorImpl()] = t; bases.emplace_back(t.storage().mutable_data(), t); return a; }
    if (t.dim() > 0) cpu_dim = true;
    return t;
  };
  bool first_cpu = false;
  for (size_t i = 0; i < n; i++) {
    IValue& v = (*stack)[base + i];
    if (v.isTensor()) { auto& t = v.toTensor(); if (i == 0 && t.defined() && !is_f(t) && t.dim() > 0) first_cpu = true; auto a = conv(t); if (a.defined()) v = IValue(a); }
    else if (v.isTensorList()) { std::vector<Tensor> o; bool c = cpu_dim; for (const Tensor& t : v.toTensorVector()) o.push_back(conv(t)); if (indexing) cpu_dim = c; v = IValue(o); }
    else if (v.isList() && v.toList().elementType()->kind() == c10::TypeKind::OptionalType) {
      auto l = v.toOptionalTensorList(); c10::List<std::optional<Tensor>> o; bool c = cpu_dim;
      for (std::optional<Tensor> t : l) o.push_back(t.has_value() ? std::optional<Tensor>(conv(*t)) : std::nullopt);
      if (indexing) cpu_dim = c; v = IValue(o);
    } else if (v.isGenerator() && v.toGenerator().defined() && v.toGenerator().device().type() == kCPU) gen_cpu = true;
    else if (v.isDevice() && v.toDevice().type() == FK) { any = true; v = IValue(c10::Device(kCPU)); }
  }
  TORCH_CHECK(!(any && (cpu_dim || first_cpu)), "Expected all tensors to be on the same device, but found at least two devices, strange:0 and cpu! (", schema.name(), ")");
  TORCH_CHECK(!(any && gen_cpu), "Expected a 'strange' device type for generator but found 'cpu' (", schema.name(), ")");
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (auto& o : outs) if (o.second.numel()) { o.first.resize_(o.second.sizes()); as_cpu(o.first).copy_(o.second); }
  auto m = schema.returns().size(); auto rb = stack->size() - m;
  auto ret = [&](const Tensor& t) -> Tensor {
    if (!t.defined() || t.device().type() != kCPU) return t;
    auto f = back.find(t.unsafeGetTensorImpl());
    if (f != back.end()) { 
      auto& o = f->second; if (o.sizes() != t.sizes() && t.numel()) { o.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides()); }
      return o; }
    for (auto& b : bases) if (t.storage().data() && t.storage().data() >= b.first && (char*)t.data_ptr() < (char*)b.first + b.second.storage().nbytes() && t.numel()) {
      int64_t off = ((char*)t.data_ptr() - (char*)b.first) / t.element_size();
      auto v = at::detail::make_tensor<TensorImpl>(c10::TensorImpl::VIEW, Storage(b.second.storage()), b.second.key_set(), t.dtype());
      v.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), off); return v; }
    return wrap(t);
  };
  for (size_t i = 0; i < m; i++) {
    IValue& v = (*stack)[rb + i];
    if (v.isTensor()) { auto t = v.toTensor(); if (t.defined()) v = IValue(ret(t)); }
    else if (v.isTensorList()) { std::vector<Tensor> o; for (const Tensor& t : v.toTensorVector()) o.push_back(ret(t)); v = IValue(o); }
  }
}
static Tensor empty_mf(c10::SymIntArrayRef s, std::optional<ScalarType> d, std::optional<Layout>, std::optional<Device>, std::optional<bool>, std::optional<MemoryFormat> mf) {
  auto dt = d.value_or(at::typeMetaToScalarType(at::get_default_dtype())); check64(dt);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(s), &alloc_, DispatchKeySet(DispatchKey::PrivateUse1), dt, mf);
}
static Tensor empty_st(c10::SymIntArrayRef s, c10::SymIntArrayRef st, std::optional<ScalarType> d, std::optional<Layout>, std::optional<Device>, std::optional<bool>) {
  auto dt = d.value_or(at::typeMetaToScalarType(at::get_default_dtype())); check64(dt);
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(s), C10_AS_INTARRAYREF_SLOW(st), &alloc_, DispatchKeySet(DispatchKey::PrivateUse1), dt);
}
static Tensor as_st(const Tensor& self, c10::SymIntArrayRef s, c10::SymIntArrayRef st, std::optional<c10::SymInt> off) {
  auto v = at::detail::make_tensor<TensorImpl>(c10::TensorImpl::VIEW, Storage(self.storage()), self.key_set(), self.dtype());
  v.unsafeGetTensorImpl()->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(s), C10_AS_INTARRAYREF_SLOW(st), off.has_value() ? off->expect_int() : self.storage_offset());
  return v;
}
static Tensor copy_from(const Tensor& src, const Tensor& dst, bool) {
  Tensor a = is_f(src) ? as_cpu(src) : src, b = is_f(dst) ? as_cpu(dst) : dst; b.copy_(a); return dst;
}
static Tensor copy_resize(const Tensor& src, const Tensor& dst) { if (src.sizes() != dst.sizes()) const_cast<Tensor&>(dst).resize_(src.sizes()); return copy_from(src, dst, false); }
static const Tensor& resize_f(const Tensor& self, c10::SymIntArrayRef s, std::optional<MemoryFormat> mf) {
  auto sz = C10_AS_INTARRAYREF_SLOW(s); int64_t need = 1; for (auto x : sz) need *= x; need = (need + self.storage_offset()) * self.element_size();
  if ((int64_t)self.storage().nbytes() < need) hooks_.resizePrivateUse1Bytes(self.storage(), need);
  self.unsafeGetTensorImpl()->set_sizes_contiguous(sz); return self;
}
static Tensor& set_st(Tensor& self, Storage src, c10::SymInt off, c10::SymIntArrayRef s, c10::SymIntArrayRef st) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(src); self.unsafeGetTensorImpl()->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(s), C10_AS_INTARRAYREF_SLOW(st), off.expect_int()); return self;
}
static Tensor& set_s(Tensor& self, Storage src) { int64_t n = src.nbytes() / self.element_size(); self.unsafeGetTensorImpl()->set_storage_keep_dtype(src); self.unsafeGetTensorImpl()->set_sizes_contiguous({n}); return self; }
static void same(const Tensor& a, const Tensor& b) { if (a.defined() && b.defined()) TORCH_CHECK(a.device() == b.device(), "Input type and weight type should be the same: Expected all tensors to be on the same device (conv)"); }
static Tensor A(const Tensor& t) { return is_f(t) ? as_cpu(t) : t; }
static Tensor conv_f(const Tensor& x, const Tensor& w, const std::optional<Tensor>& b, c10::SymIntArrayRef s, c10::SymIntArrayRef p, c10::SymIntArrayRef d, bool tr, c10::SymIntArrayRef op, c10::SymInt g) {
  same(x, w); if (b) same(x, *b);
  return wrap(at::convolution_symint(A(x), A(w), b ? std::optional<Tensor>(A(*b)) : std::nullopt, s, p, d, tr, op, g));
}
static std::tuple<Tensor, Tensor, Tensor> conv_b(const Tensor& go, const Tensor& x, const Tensor& w, c10::SymIntArrayRef s, c10::SymIntArrayRef p, c10::SymIntArrayRef d, bool tr, c10::SymIntArrayRef op, c10::SymInt g, std::array<bool, 3> m) {
  std::vector<c10::SymInt> bs{w.sym_size(tr ? 1 : 0) * (tr ? g : c10::SymInt(1))};
  auto [a, b, c] = at::convolution_backward_symint(A(go), A(x), A(w), bs, s, p, d, tr, op, g, m);
  return {m[0] ? wrap(a) : Tensor(), m[1] ? wrap(b) : Tensor(), m[2] ? wrap(c) : Tensor()};
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty_mf); m.impl("empty_strided", empty_st); m.impl("as_strided", as_st);
  m.impl("_copy_from", copy_from); m.impl("_copy_from_and_resize", copy_resize); m.impl("resize_", resize_f);
  m.impl("set_.source_Storage_storage_offset", set_st); m.impl("set_.source_Storage", set_s);
  m.impl("convolution_overrideable", conv_f); m.impl("convolution_backward_overrideable", conv_b);
}
static std::vector<c10::RegistrationHandleRAII> handles_;
static int more_ = [] {
  auto& d = c10::Dispatcher::singleton();
  for (auto& name : d.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    auto op = d.findOp(name);
    if (!op || !op->hasSchema()) continue;
    bool nf = op->hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutogradNonFunctional);
    bool pu = op->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1);
    if (nf && !pu) handles_.emplace_back(d.registerImpl(name, c10::DispatchKey::PrivateUse1, c10::KernelFunction::makeFromBoxedFunction<&fallback>(), std::nullopt, nullptr, "strange"));
  }
  return 0;
}();
