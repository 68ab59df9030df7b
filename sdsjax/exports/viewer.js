// An orbit viewer of splats and of the mesh; WebGL 2, no library, no network.
// Splats: EWA projection (Zwicker et al. 2001), sorted back to front, as in 3DGS.
// World right-handed, y up; azimuth 0 looks at the front, +90 at the object's left.
(() => {
  "use strict";
  const root = document.getElementById("viewer");
  if (!root) return;
  const canvas = root.querySelector("canvas");
  const note = root.querySelector(".note");
  const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) {
    note.textContent = "This browser offers no WebGL 2: see the turntable instead.";
    return;
  }

  const bytes = (id) => {
    const node = document.getElementById(id);
    if (!node) return null;
    const text = atob(node.textContent.trim());
    const out = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
    return out.buffer;
  };
  const settings = JSON.parse(root.dataset.settings);

  const program = (vertex, fragment) => {
    const p = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const s = gl.createShader(kind);
      gl.shaderSource(s, "#version 300 es\nprecision highp float;\n" + text);
      gl.compileShader(s);
      if (!gl.getShaderParameter(s, gl.COMPILE_STATUS)) throw gl.getShaderInfoLog(s);
      gl.attachShader(p, s);
    }
    gl.linkProgram(p);
    return p;
  };
  const buffer = (target, array) => {
    const b = gl.createBuffer();
    gl.bindBuffer(target, b);
    gl.bufferData(target, array, gl.STATIC_DRAW);
    return b;
  };

  // --- splats: centre 3, covariance 6, colour 3, opacity 1 -------------------------
  const WIDTH = 13;
  const makeSplats = (raw) => {
    const rows = new Float32Array(raw), count = rows.length / WIDTH;
    const sorted = new Float32Array(rows.length);
    const prog = program(`
      layout(location=0) in vec2 corner;
      layout(location=1) in vec3 centre;
      layout(location=2) in vec3 covA;
      layout(location=3) in vec3 covB;
      layout(location=4) in vec4 colour;
      uniform mat3 rotation; uniform vec3 translation;
      uniform vec2 size; uniform float focal; uniform float lowpass;
      out vec2 at; out vec4 paint;
      void main() {
        vec3 p = rotation * centre + translation;
        gl_Position = vec4(0., 0., 2., 1.);
        if (p.z < 0.05) return;
        mat3 cov = mat3(covA, vec3(covA.y, covB.xy), vec3(covA.z, covB.yz));
        mat3 local = rotation * cov * transpose(rotation);
        vec3 jx = vec3(focal / p.z, 0., -focal * p.x / (p.z * p.z));
        vec3 jy = vec3(0., focal / p.z, -focal * p.y / (p.z * p.z));
        float a = dot(jx, local * jx) + lowpass, c = dot(jy, local * jy) + lowpass;
        float b = dot(jx, local * jy);
        float mid = .5 * (a + c), gap = sqrt(max(.25 * (a - c) * (a - c) + b * b, 1e-12));
        float big = mid + gap, small = max(mid - gap, 1e-6);
        vec2 axis = abs(b) > 1e-9 ? normalize(vec2(b, big - a))
                  : (a >= c ? vec2(1., 0.) : vec2(0., 1.));
        vec2 px = axis * sqrt(big) * corner.x + vec2(-axis.y, axis.x) * sqrt(small) * corner.y;
        vec2 screen = vec2(focal * p.x, focal * p.y) / p.z + px;
        gl_Position = vec4(2. * screen.x / size.x, -2. * screen.y / size.y, 0., 1.);
        at = corner; paint = colour;
      }`, `
      in vec2 at; in vec4 paint; out vec4 result;
      void main() {
        float alpha = min(paint.a * exp(-.5 * dot(at, at)), .99);
        if (alpha < 1. / 255.) discard;
        result = vec4(paint.rgb * alpha, alpha);
      }`);
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    buffer(gl.ARRAY_BUFFER, new Float32Array([-3.3, -3.3, 3.3, -3.3, -3.3, 3.3, 3.3, 3.3]));
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
    const instances = buffer(gl.ARRAY_BUFFER, sorted);
    [[1, 3, 0], [2, 3, 3], [3, 3, 6], [4, 4, 9]].forEach(([where, n, first]) => {
      gl.enableVertexAttribArray(where);
      gl.vertexAttribPointer(where, n, gl.FLOAT, false, 4 * WIDTH, 4 * first);
      gl.vertexAttribDivisor(where, 1);
    });
    const depth = new Float32Array(count);
    const order = Array.from({ length: count }, (_, i) => i);
    return (view) => {
      const r = view.rotation;
      for (let i = 0; i < count; i++) {
        const o = i * WIDTH;
        depth[i] = r[2] * rows[o] + r[5] * rows[o + 1] + r[8] * rows[o + 2];
      }
      order.sort((i, j) => depth[j] - depth[i]);
      for (let k = 0; k < count; k++) {
        const o = order[k] * WIDTH;
        sorted.set(rows.subarray(o, o + WIDTH), k * WIDTH);
      }
      gl.useProgram(prog);
      gl.bindVertexArray(array);
      gl.bindBuffer(gl.ARRAY_BUFFER, instances);
      gl.bufferData(gl.ARRAY_BUFFER, sorted, gl.DYNAMIC_DRAW);
      gl.disable(gl.DEPTH_TEST);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.uniformMatrix3fv(gl.getUniformLocation(prog, "rotation"), false, r);
      gl.uniform3fv(gl.getUniformLocation(prog, "translation"), view.translation);
      gl.uniform2f(gl.getUniformLocation(prog, "size"), canvas.width, canvas.height);
      gl.uniform1f(gl.getUniformLocation(prog, "focal"), view.focal);
      // Between the low-pass of the resolution the splats were fitted at, which hides
      // the gaps between them, and that of the screen, which is sharper.
      const blur = 0.3 * Math.max(1, canvas.height / (2 * settings.resolution)) ** 2;
      gl.uniform1f(gl.getUniformLocation(prog, "lowpass"), blur);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
    };
  };

  // --- mesh: uint16 positions in a box, uint8 colours, uint32 indices ----------------
  const makeMesh = (raw, box) => {
    const [n, m] = [box.vertices, box.faces];
    const packed = new Uint16Array(raw, 0, 3 * n);
    const faces = new Uint32Array(raw, box.faces_at, 3 * m);
    const colours = new Uint8Array(raw, box.colours_at, 3 * n);
    const points = new Float32Array(3 * n), normals = new Float32Array(3 * n);
    for (let i = 0; i < 3 * n; i++) points[i] = box.low[i % 3] + packed[i] * box.step;
    for (let f = 0; f < m; f++) {
      const [a, b, c] = [3 * faces[3 * f], 3 * faces[3 * f + 1], 3 * faces[3 * f + 2]];
      const u = [0, 1, 2].map((k) => points[b + k] - points[a + k]);
      const v = [0, 1, 2].map((k) => points[c + k] - points[a + k]);
      const x = u[1] * v[2] - u[2] * v[1], y = u[2] * v[0] - u[0] * v[2];
      const z = u[0] * v[1] - u[1] * v[0];
      for (const i of [a, b, c]) { normals[i] += x; normals[i + 1] += y; normals[i + 2] += z; }
    }
    const prog = program(`
      layout(location=0) in vec3 point;
      layout(location=1) in vec3 normal;
      layout(location=2) in vec3 colour;
      uniform mat3 rotation; uniform vec3 translation;
      uniform vec2 size; uniform float focal;
      out vec3 facing; out vec3 world; out vec3 paint;
      void main() {
        vec3 p = rotation * point + translation;
        float near = .05, far = 40.;
        gl_Position = vec4(2. * focal * p.x / size.x, -2. * focal * p.y / size.y,
          (p.z * (far + near) - 2. * far * near) / (far - near), p.z);
        facing = rotation * normal; world = normal; paint = colour;
      }`, `
      in vec3 facing; in vec3 world; in vec3 paint; uniform bool bare; out vec4 result;
      void main() {
        float light = abs(normalize(facing).z);
        vec3 shade = bare ? .5 + .5 * normalize(world) : paint * (.8 + .2 * light);
        result = vec4(shade, 1.);
      }`);
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    [[0, points, gl.FLOAT, false], [1, normals, gl.FLOAT, false],
     [2, colours, gl.UNSIGNED_BYTE, true]].forEach(([where, values, type, scaled]) => {
      buffer(gl.ARRAY_BUFFER, values);
      gl.enableVertexAttribArray(where);
      gl.vertexAttribPointer(where, 3, type, scaled, 0, 0);
    });
    buffer(gl.ELEMENT_ARRAY_BUFFER, faces);
    return (view, bare) => {
      gl.useProgram(prog);
      gl.bindVertexArray(array);
      gl.enable(gl.DEPTH_TEST);
      gl.disable(gl.BLEND);
      gl.uniformMatrix3fv(gl.getUniformLocation(prog, "rotation"), false, view.rotation);
      gl.uniform3fv(gl.getUniformLocation(prog, "translation"), view.translation);
      gl.uniform2f(gl.getUniformLocation(prog, "size"), canvas.width, canvas.height);
      gl.uniform1f(gl.getUniformLocation(prog, "focal"), view.focal);
      gl.uniform1i(gl.getUniformLocation(prog, "bare"), bare ? 1 : 0);
      gl.drawElements(gl.TRIANGLES, 3 * m, gl.UNSIGNED_INT, 0);
    };
  };

  const modes = {};
  try {
    const splats = bytes("splats-bytes"), mesh = bytes("mesh-bytes");
    if (splats) modes.splats = makeSplats(splats);
    if (mesh) {
      const draw = makeMesh(mesh, settings.mesh);
      modes.mesh = draw;
      modes.normals = (view) => draw(view, true);
    }
  } catch (error) {
    note.textContent = "The viewer could not start: " + error;
    return;
  }

  const state = { azimuth: 25, elevation: 15, distance: 3.1, spin: true, stale: true };
  let mode = Object.keys(modes)[0];
  // Columns of the world-to-camera rotation (camera x right, y down, z forward).
  const pose = () => {
    const a = state.azimuth * Math.PI / 180, e = state.elevation * Math.PI / 180;
    const [sa, ca, se, ce] = [Math.sin(a), Math.cos(a), Math.sin(e), Math.cos(e)];
    const right = [ca, 0, -sa], down = [se * sa, -ce, se * ca];
    const ahead = [-sa * ce, -se, -ca * ce];
    const rotation = new Float32Array(9);
    for (let k = 0; k < 3; k++) {
      rotation[3 * k] = right[k]; rotation[3 * k + 1] = down[k]; rotation[3 * k + 2] = ahead[k];
    }
    const focal = 0.5 * canvas.height / Math.tan(settings.fov * Math.PI / 360);
    return { rotation, translation: new Float32Array([0, 0, state.distance]), focal };
  };
  const draw = () => {
    const side = Math.round(canvas.clientWidth * Math.min(window.devicePixelRatio || 1, 2));
    if (side && canvas.width !== side) { canvas.width = canvas.height = side; }
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(1, 1, 1, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    modes[mode](pose(), false);
    state.stale = false;
  };
  let last = 0;
  const frame = (now) => {
    if (state.spin) { state.azimuth += Math.min(now - last, 100) * 0.02; state.stale = true; }
    last = now;
    if (state.stale) draw();
    requestAnimationFrame(frame);
  };

  root.querySelectorAll("button[data-mode]").forEach((button) => {
    const name = button.dataset.mode;
    button.hidden = !(name in modes);
    const press = () => root.querySelectorAll("button[data-mode]").forEach((b) =>
      b.setAttribute("aria-pressed", String(b.dataset.mode === mode)));
    button.addEventListener("click", () => { mode = name; state.stale = true; press(); });
    press();
  });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) state.spin = false;
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    state.spin = false; held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    state.azimuth -= 0.5 * (event.clientX - held[0]);
    state.elevation += 0.5 * (event.clientY - held[1]);
    state.elevation = Math.max(-89, Math.min(89, state.elevation));
    held = [event.clientX, event.clientY]; state.stale = true;
  });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("keydown", (event) => {
    const turn = { ArrowLeft: [5, 0], ArrowRight: [-5, 0], ArrowUp: [0, 5], ArrowDown: [0, -5] };
    const by = turn[event.key];
    if (!by) return;
    event.preventDefault();
    state.spin = false; state.azimuth += by[0]; state.stale = true;
    state.elevation = Math.max(-89, Math.min(89, state.elevation + by[1]));
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    state.distance = Math.max(1.2, Math.min(9, state.distance * Math.exp(event.deltaY * 0.001)));
    state.stale = true;
  }, { passive: false });
  window.addEventListener("resize", () => { state.stale = true; });
  draw();
  root.dataset.drawn = mode;
  requestAnimationFrame(frame);
})();
